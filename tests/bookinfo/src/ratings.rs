//! Ratings: the stars that reviewers gave, kept in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

/// Books that may be rated at the same time; further ones replace the lowest id.
const BOOK_LIMIT: usize = 1_000;

type Stars = BTreeMap<String, u8>;

#[derive(Debug, Clone, Default)]
struct Ratings {
    rated: Arc<Mutex<BTreeMap<u64, Stars>>>,
}

pub(crate) fn router() -> Router {
    Router::new()
        .route("/ratings/{id}", get(read).post(rate))
        .route("/health", get(async || Json(json!({"status": "Ratings is healthy"}))))
        .with_state(Ratings::default())
}

async fn read(State(ratings): State<Ratings>, Path(id): Path<u64>) -> Json<Value> {
    let stars = ratings.rated.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
    Json(json!({"id": id, "ratings": stars.unwrap_or_else(first_stars)}))
}

async fn rate(State(ratings): State<Ratings>, Path(id): Path<u64>, Json(stars): Json<Stars>) -> Json<Value> {
    let mut rated = ratings.rated.lock().unwrap_or_else(PoisonError::into_inner);
    rated.insert(id, stars.clone());
    if rated.len() > BOOK_LIMIT {
        rated.pop_first();
    }
    Json(json!({"id": id, "ratings": stars}))
}

fn first_stars() -> Stars {
    [("Reviewer1", 5), ("Reviewer2", 4)].into_iter().map(|(name, stars)| (name.to_owned(), stars)).collect()
}
