//! How long a server that is away is left alone.

use std::time::Duration;

use tokio::time::Instant;

/// After the first failure. Shorter, and a server that starts anew is asked hundreds of times.
const FIRST: Duration = Duration::from_millis(250);

/// After many. Longer, and one that is back is noticed late.
const LONGEST: Duration = Duration::from_secs(4);

/// A server's time away.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pause {
    /// Since when it may be asked again; `None` while it is there.
    until: Option<Instant>,
    last: Duration,
}

impl Pause {
    /// Whether it is left alone at that time.
    pub(crate) fn is_on(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// When it may be asked.
    pub(crate) fn end(&self) -> Option<Instant> {
        self.until
    }

    /// It failed. Says whether that is news.
    pub(crate) fn begin(&mut self, now: Instant) -> bool {
        let is_news = self.until.is_none();
        self.last = if is_news { FIRST } else { (self.last * 2).min(LONGEST) };
        self.until = Some(now + self.last);
        is_news
    }

    /// It answered. Says whether that is news.
    pub(crate) fn finish(&mut self) -> bool {
        self.until.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_four_seconds_and_begin_anew() {
        let (mut pause, mut now) = (Pause::default(), Instant::now());
        assert!(!pause.is_on(now) && pause.begin(now));
        let mut lasted = Vec::new();
        for _ in 0..6 {
            let end = pause.end().unwrap();
            assert!(pause.is_on(now) && !pause.is_on(end));
            lasted.push((end - now).as_millis());
            now = end;
            assert!(!pause.begin(now));
        }
        assert_eq!(lasted, [250, 500, 1000, 2000, 4000, 4000]);
        assert!(pause.finish() && !pause.finish());
        assert!(pause.begin(now) && pause.end() == Some(now + FIRST));
    }
}
