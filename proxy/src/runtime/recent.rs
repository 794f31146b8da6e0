//! Recent denials by their ids, with what each was decided from: the memory behind `/why/ID`.

use std::{collections::VecDeque, sync::Arc};

use jiff::Timestamp;
use palisade_model::reason::Reason;
use palisade_policy::{CapturedRequest, PolicyEngine};
use parking_lot::Mutex;

/// Denials kept. At about 1 KiB each this bounds the memory to 4 MiB.
const KEPT: usize = 4096;

/// Engines that denials may keep alive: those of configurations that are long gone would add up.
const ENGINES: usize = 64;

/// The last denials, oldest first.
#[derive(Debug, Default)]
pub struct RecentDenials {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    denials: VecDeque<Arc<Denied>>,
    /// Addresses of the denials' engines, with the number of denials of each.
    engines: Vec<(usize, usize)>,
}

/// One denial.
#[derive(Debug)]
pub struct Denied {
    /// Its id.
    pub id: Box<str>,
    /// When it was decided.
    pub time: Timestamp,
    /// The reason that the log gives.
    pub reason: Reason,
    /// What it was decided from.
    pub captured: Box<CapturedRequest>,
    /// Who decided: the engine of that time, so that the explanation is of that decision.
    pub engine: Arc<PolicyEngine>,
}

impl RecentDenials {
    /// Remembers a denial, and forgets the oldest when there are too many, or too many engines among them.
    pub fn remember(&self, denied: Denied) {
        self.kept.lock().add(Arc::new(denied));
    }

    /// A denial by its id.
    pub fn find(&self, id: &str) -> Option<Arc<Denied>> {
        self.kept.lock().denials.iter().rev().find(|denied| *denied.id == *id).map(Arc::clone)
    }
}

impl Kept {
    fn add(&mut self, denied: Arc<Denied>) {
        let engine = Arc::as_ptr(&denied.engine).addr();
        match self.engines.iter_mut().rev().find(|(known, _)| *known == engine) {
            Some((_, count)) => *count += 1,
            None => self.engines.push((engine, 1)),
        }
        self.denials.push_back(denied);
        while self.denials.len() > KEPT || self.engines.len() > ENGINES {
            let Some(oldest) = self.denials.pop_front() else { return };
            let engine = Arc::as_ptr(&oldest.engine).addr();
            if let Some(place) = self.engines.iter().position(|(known, _)| *known == engine)
                && let Some((_, count)) = self.engines.get_mut(place)
            {
                *count -= 1;
                if *count == 0 {
                    self.engines.remove(place);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use palisade_model::policy::PolicySet;
    use palisade_policy::{ConnectionFacts, Peer};

    use super::*;

    fn engine() -> Arc<PolicyEngine> {
        Arc::new(PolicyEngine::build(&PolicySet::default(), |_| None))
    }

    fn denied(number: usize, engine: &Arc<PolicyEngine>) -> Denied {
        let facts = ConnectionFacts {
            source_ip: [10, 0, 0, 1].into(),
            source_port: 1,
            destination_ip: [10, 0, 0, 2].into(),
            destination_port: 2,
            peer: Peer::Anonymous,
            tls: None,
        };
        Denied {
            id: number.to_string().into(),
            time: Timestamp::UNIX_EPOCH,
            reason: Reason::AuthzDenied,
            captured: Box::new(engine.capture_tcp(&engine.connect(&facts))),
            engine: Arc::clone(engine),
        }
    }

    #[test]
    fn the_oldest_denials_go_and_with_them_their_engines() {
        let recent = RecentDenials::default();
        let (first, second) = (engine(), engine());
        recent.remember(denied(0, &first));
        (1..=KEPT).for_each(|number| recent.remember(denied(number, &second)));
        assert!(recent.find("0").is_none() && recent.find("1").is_some());
        assert_eq!((Arc::strong_count(&first), recent.kept.lock().engines.len()), (1, 1));
    }

    #[test]
    fn engines_of_configurations_that_are_gone_do_not_add_up() {
        let recent = RecentDenials::default();
        let engines: Vec<_> = (0..ENGINES + 10).map(|_| engine()).collect();
        for (number, engine) in engines.iter().enumerate() {
            recent.remember(denied(2 * number, engine));
            recent.remember(denied(2 * number + 1, engine));
        }
        let alive = engines.iter().filter(|engine| Arc::strong_count(engine) > 1).count();
        assert_eq!((alive, recent.kept.lock().denials.len()), (ENGINES, 2 * ENGINES));
        assert!(recent.find(&(2 * (ENGINES + 10) - 1).to_string()).is_some());
    }
}
