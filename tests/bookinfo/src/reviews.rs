//! Reviews of a book: v1 without stars, v2 and v3 with the stars that ratings knows.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Json, Router};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use crate::client::Client;
use crate::forward::forwarded;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Version {
    V1,
    V2,
    V3,
}

#[derive(Debug, Clone)]
struct Reviews {
    version: Version,
    ratings: String,
    client: Client,
}

pub(crate) fn router(version: Version) -> Router {
    let host = crate::productpage::service("RATINGS", "ratings");
    Router::new()
        .route("/reviews/{id}", get(reviews))
        .route("/health", get(async || Json(json!({"status": "Reviews is healthy"}))))
        .with_state(Reviews { version, ratings: host, client: Client::default() })
}

async fn reviews(State(reviews): State<Reviews>, Path(id): Path<u64>, headers: HeaderMap) -> Json<Value> {
    let stars = reviews.stars(id, &headers).await;
    let texts = [
        ("Reviewer1", "Entertaining from the first line to the last, and the humour has not aged."),
        ("Reviewer2", "Great fun on stage, though with less depth than the author's later plays."),
    ];
    let list: Vec<Value> = texts
        .into_iter()
        .map(|(reviewer, text)| {
            let mut review = json!({"reviewer": reviewer, "text": text});
            if let (Some(rating), Some(review)) =
                (rating(reviews.version, stars.as_ref(), reviewer), review.as_object_mut())
            {
                review.insert("rating".to_owned(), rating);
            }
            review
        })
        .collect();
    Json(
        json!({"id": id.to_string(), "podname": crate::productpage::pod_name(), "clustername": Value::Null, "reviews": list}),
    )
}

fn rating(version: Version, stars: Result<&Value, &String>, reviewer: &str) -> Option<Value> {
    let color = match version {
        Version::V1 => return None,
        Version::V2 => "black",
        Version::V3 => "red",
    };
    Some(match stars {
        Ok(stars) => match stars.pointer(&format!("/ratings/{reviewer}")) {
            Some(stars) => json!({"stars": stars, "color": color}),
            None => json!({"error": "no rating was given"}),
        },
        Err(_) => json!({"error": "Ratings service is currently unavailable"}),
    })
}

impl Reviews {
    /// The answer of ratings; v1 does not ask.
    async fn stars(&self, id: u64, headers: &HeaderMap) -> Result<Value, String> {
        // v3 is the impatient one: a delay of a few seconds injected before ratings shows in one version only.
        let timeout = match self.version {
            Version::V1 => return Ok(Value::Null),
            Version::V2 => Duration::from_secs(10),
            Version::V3 => Duration::from_millis(2_500),
        };
        let url = format!("http://{}/ratings/{id}", self.ratings);
        let response = match self.client.get(&url, forwarded(headers), timeout).await {
            Ok(response) => response,
            Err(error) => {
                eprintln!("{error:#}");
                return Err(error.to_string());
            }
        };
        if response.status() != StatusCode::OK {
            return Err(format!("`{url}` answered {}", response.status()));
        }
        serde_json::from_slice(response.body()).map_err(|error| error.to_string())
    }
}
