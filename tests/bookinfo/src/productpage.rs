//! Product page: one book's page, from what details and reviews answer.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};

use crate::client::Client;
use crate::forward::{forwarded, user};

mod page;

/// How long the page waits for one answer of a service behind it.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Debug, Clone)]
struct Shop {
    details: String,
    reviews: String,
    ratings: String,
    client: Client,
}

/// `HOST:PORT` of a service: `NAME_HOSTNAME` (default `name`, extended by `SERVICES_DOMAIN` where that is set) and
/// `NAME_SERVICE_PORT` (default 9080), the variables that Bookinfo's images take.
pub(crate) fn service(variable: &str, name: &str) -> String {
    let set = |variable: String| std::env::var(variable).ok().filter(|value| !value.is_empty());
    let mut host = set(format!("{variable}_HOSTNAME")).unwrap_or_else(|| name.to_owned());
    if let Some(domain) = set("SERVICES_DOMAIN".to_owned()) {
        host = format!("{host}.{domain}");
    }
    let port = set(format!("{variable}_SERVICE_PORT")).and_then(|port| port.parse::<u16>().ok()).unwrap_or(9080);
    format!("{host}:{port}")
}

/// The pod's name, as Kubernetes gives it to a container.
pub(crate) fn pod_name() -> String {
    std::env::var("HOSTNAME").unwrap_or_default()
}

pub(crate) fn router() -> Router {
    let shop = Shop {
        details: service("DETAILS", "details"),
        reviews: service("REVIEWS", "reviews"),
        ratings: service("RATINGS", "ratings"),
        client: Client::default(),
    };
    Router::new()
        .route("/", get(index))
        .route("/index.html", get(index))
        .route("/productpage", get(productpage))
        .route("/login", post(login))
        .route("/logout", get(logout))
        .route("/static/{*path}", get(style))
        .route("/health", get(async || "Product page is healthy"))
        .route("/api/v1/products", get(products))
        .route("/api/v1/products/{id}", get(product))
        .route("/api/v1/products/{id}/reviews", get(product_reviews))
        .route("/api/v1/products/{id}/ratings", get(product_ratings))
        .with_state(shop)
}

async fn index() -> Html<&'static str> {
    Html(
        "<!DOCTYPE html><html><head><title>Simple Bookstore App</title></head><body><h1>Simple Bookstore App</h1><p><a href=\"/productpage\">The Comedy of Errors</a></p></body></html>",
    )
}

async fn style() -> ([(header::HeaderName, &'static str); 1], &'static str) {
    ([(header::CONTENT_TYPE, "text/css")], page::STYLE)
}

async fn productpage(State(shop): State<Shop>, headers: HeaderMap) -> Html<String> {
    let (details, reviews) = tokio::join!(shop.details(0, &headers), shop.reviews(0, &headers));
    Html(page::render(&book(), user(&headers).as_deref(), &details, &reviews))
}

async fn login(form: String) -> Response {
    // Only what a cookie's value may hold; anything else would let a form write further headers or cookies.
    let name = form.split('&').find_map(|field| field.strip_prefix("username=")).unwrap_or_default();
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte)) {
        return (StatusCode::BAD_REQUEST, "a user's name has letters, digits and -_.@").into_response();
    }
    ([(header::SET_COOKIE, format!("user={name}; Path=/; HttpOnly"))], Redirect::to("/productpage")).into_response()
}

async fn logout() -> Response {
    ([(header::SET_COOKIE, "user=; Path=/; Max-Age=0; HttpOnly")], Redirect::to("/productpage")).into_response()
}

async fn products() -> Json<Value> {
    Json(json!([book()]))
}

async fn product(State(shop): State<Shop>, Path(id): Path<u64>, headers: HeaderMap) -> Response {
    answer(shop.details(id, &headers).await)
}

async fn product_reviews(State(shop): State<Shop>, Path(id): Path<u64>, headers: HeaderMap) -> Response {
    answer(shop.reviews(id, &headers).await)
}

async fn product_ratings(State(shop): State<Shop>, Path(id): Path<u64>, headers: HeaderMap) -> Response {
    answer(shop.fetch(&format!("http://{}/ratings/{id}", shop.ratings), &headers).await)
}

fn answer(result: Result<Value, Unavailable>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(Unavailable { status, reason }) => (status, Json(json!({"error": reason}))).into_response(),
    }
}

fn book() -> Value {
    json!({"id": 0, "title": "The Comedy of Errors", "descriptionHtml": "One of the author's early comedies: two pairs of twins, separated at birth, meet by accident in a town where everybody takes each for the other."})
}

/// Why a service behind the page gave nothing to show.
#[derive(Debug)]
struct Unavailable {
    status: StatusCode,
    reason: String,
}

impl Shop {
    async fn details(&self, id: u64, headers: &HeaderMap) -> Result<Value, Unavailable> {
        self.fetch(&format!("http://{}/details/{id}", self.details), headers).await
    }

    /// Asks twice: the second attempt hides one lost answer, and doubles the wait where reviews is slow.
    async fn reviews(&self, id: u64, headers: &HeaderMap) -> Result<Value, Unavailable> {
        let url = format!("http://{}/reviews/{id}", self.reviews);
        match self.fetch(&url, headers).await {
            Ok(value) => Ok(value),
            Err(_) => self.fetch(&url, headers).await,
        }
    }

    async fn fetch(&self, url: &str, headers: &HeaderMap) -> Result<Value, Unavailable> {
        let response = self.client.get(url, forwarded(headers), PATIENCE).await.map_err(|error| {
            eprintln!("{error:#}");
            Unavailable { status: StatusCode::SERVICE_UNAVAILABLE, reason: error.to_string() }
        })?;
        let text = String::from_utf8_lossy(response.body());
        if response.status() != StatusCode::OK {
            return Err(Unavailable { status: response.status(), reason: text.into_owned() });
        }
        serde_json::from_str(&text)
            .map_err(|error| Unavailable { status: StatusCode::BAD_GATEWAY, reason: error.to_string() })
    }
}
