//! `/identity`: the mesh's roots, and the steps by which one replaces another.

use std::sync::Arc;

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};

use crate::{
    ca::NoStep,
    rotation::{IdentityStatus, Rotation, StepError, StepQuestion},
};

pub(super) async fn page(rotation: Arc<Rotation>) -> Json<IdentityStatus> {
    Json(rotation.status().await)
}

/// JSON only: a page of another site cannot send that without asking first, which nobody answers here.
pub(super) async fn step(rotation: Arc<Rotation>, Json(question): Json<StepQuestion>) -> Response {
    match rotation.step(&question).await {
        Ok(answer) => Json(answer).into_response(),
        Err(error @ StepError::None(NoStep::PluggedIn | NoStep::NothingToTakeBack)) => {
            (StatusCode::CONFLICT, format!("{error}\n")).into_response()
        }
        Err(error) => {
            tracing::warn!(%error, "a step of the root is not taken");
            (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response()
        }
    }
}
