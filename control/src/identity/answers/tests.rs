//! What is known is not asked again; what is asked is bounded.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const LIMITS: Limits = Limits {
    good: 4,
    bad: 2,
    bad_life: Duration::from_secs(10),
    asked: 2,
    waiting: 3,
    patience: Duration::from_secs(5),
};

const LIFE: Duration = Duration::from_secs(60);

fn proven() -> Proven {
    Proven { namespace: "foo".into(), service_account: "a".into(), pod: None }
}

fn bad() -> TokenError {
    TokenError::Invalid(InvalidToken::Signature)
}

/// Counts questions, and answers each after a second.
#[derive(Default)]
struct Judge {
    asked: AtomicUsize,
    at_a_time: AtomicUsize,
    most: AtomicUsize,
}

impl Judge {
    async fn ask(
        self: Arc<Self>,
        answer: Result<(Proven, Duration), TokenError>,
    ) -> Result<(Proven, Duration), TokenError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let now = self.at_a_time.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.at_a_time.fetch_sub(1, Ordering::SeqCst);
        answer
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[tokio::test(start_paused = true)]
async fn many_who_ask_at_once_share_one_answer_for_its_life() {
    let (answers, judge) = (Answers::new(LIMITS), Arc::new(Judge::default()));
    let ask = || answers.answer([1; 32], || Arc::clone(&judge).ask(Ok((proven(), LIFE))));
    let all = futures::future::join_all((0..100).map(|_| ask())).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(judge.asked(), 1);
    tokio::time::advance(LIFE - Duration::from_millis(1)).await;
    assert!(ask().await.is_ok());
    assert_eq!(judge.asked(), 1);
    tokio::time::advance(Duration::from_millis(1)).await;
    assert!(ask().await.is_ok());
    assert_eq!(judge.asked(), 2, "its life is over");
}

#[tokio::test(start_paused = true)]
async fn a_flood_is_bounded_and_drives_no_good_answer_out() {
    let (answers, judge) = (Answers::new(LIMITS), Arc::new(Judge::default()));
    let good = || answers.answer([0; 32], || Arc::clone(&judge).ask(Ok((proven(), LIFE))));
    assert!(good().await.is_ok());
    let flood = (1..=50).map(|index| answers.answer([index; 32], || Arc::clone(&judge).ask(Err(bad()))));
    let results = futures::future::join_all(flood).await;
    assert_eq!(results.iter().filter(|result| **result == Err(bad())).count(), LIMITS.waiting);
    assert_eq!(results.iter().filter(|result| matches!(result, Err(TokenError::Unavailable(_)))).count(), 47);
    assert_eq!(judge.most.load(Ordering::SeqCst), LIMITS.asked);
    let before = judge.asked();
    assert!(good().await.is_ok());
    assert_eq!(judge.asked(), before);
    assert!(answers.known.lock().bad.len() <= LIMITS.bad);
}

#[tokio::test(start_paused = true)]
async fn no_answer_is_not_kept_and_a_known_one_outlives_it() {
    let answers = Answers::new(LIMITS);
    let away = || async { Err(TokenError::Unavailable("away".to_owned())) };
    assert!(answers.answer([1; 32], || async { Ok((proven(), LIFE)) }).await.is_ok());
    assert!(answers.answer([1; 32], away).await.is_ok(), "known");
    assert!(matches!(answers.answer([2; 32], away).await, Err(TokenError::Unavailable(_))));
    assert!(answers.answer([2; 32], || async { Ok((proven(), LIFE)) }).await.is_ok(), "asked again");
    let silent = answers.answer([3; 32], std::future::pending).await;
    assert!(matches!(silent, Err(TokenError::Unavailable(_))), "{silent:?}");
}

#[tokio::test(start_paused = true)]
async fn a_question_that_everybody_left_does_not_stop_the_next() {
    let (answers, judge) = (Answers::new(LIMITS), Arc::new(Judge::default()));
    let ask = |key| answers.answer([key; 32], || Arc::clone(&judge).ask(Ok((proven(), LIFE))));
    for key in 1..=20 {
        assert!(tokio::time::timeout(Duration::from_millis(10), ask(key)).await.is_err());
    }
    assert!(ask(1).await.is_ok());
}
