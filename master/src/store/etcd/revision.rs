//! What the newest revision is, asked once for all who want to know it.
//!
//! Every read that has to be up to date begins with this question. An answer serves whoever came
//! before the question was sent: to them it is no older than one of their own would be. So while one
//! question is on its way, all who come wait for the next.

use std::sync::{Arc, Mutex, PoisonError};

use etcd_client::Error;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};

use crate::store::Revision;

type Answer = Result<Revision, Arc<Error>>;
type Question = Shared<BoxFuture<'static, Answer>>;
type Ask = dyn Fn() -> BoxFuture<'static, Result<Revision, Error>> + Send + Sync;

/// Asks for the newest revision.
pub(super) struct NewestRevision(Arc<Line>);

struct Line {
    ask: Box<Ask>,
    /// The question that was not sent yet.
    next: Mutex<Option<Question>>,
    /// Held while a question is on its way.
    asking: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for NewestRevision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewestRevision").finish_non_exhaustive()
    }
}

impl NewestRevision {
    /// `ask` sends one question.
    pub(super) fn new(
        ask: impl Fn() -> BoxFuture<'static, Result<Revision, Error>> + Send + Sync + 'static,
    ) -> Self {
        let (next, asking) = (Mutex::default(), tokio::sync::Mutex::default());
        Self(Arc::new(Line { ask: Box::new(ask), next, asking }))
    }

    /// The revision that was the newest at some time after the call.
    pub(super) async fn get(&self) -> Answer {
        let question = self.0.next().get_or_insert_with(|| question(Arc::clone(&self.0))).clone();
        question.await
    }
}

impl Line {
    fn next(&self) -> std::sync::MutexGuard<'_, Option<Question>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn question(line: Arc<Line>) -> Question {
    let asked = async move {
        let _asking = line.asking.lock().await;
        // From here on whoever comes is too late for it.
        line.next().take();
        (line.ask)().await.map_err(Arc::new)
    };
    asked.boxed().shared()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::sync::mpsc;

    use super::*;

    /// A revision that answers when it is told to; each question gets the number of it.
    fn told() -> (NewestRevision, mpsc::UnboundedSender<()>, Arc<AtomicU64>) {
        let (tell, told) = mpsc::unbounded_channel();
        let told = Arc::new(tokio::sync::Mutex::new(told));
        let asked = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&asked);
        let newest = NewestRevision::new(move || {
            let (number, told) = (count.fetch_add(1, Ordering::SeqCst) + 1, Arc::clone(&told));
            async move {
                told.lock().await.recv().await;
                Ok(number)
            }
            .boxed()
        });
        (newest, tell, asked)
    }

    #[tokio::test]
    async fn an_answer_serves_whoever_came_before_the_question() {
        let (newest, tell, asked) = told();
        let mut first = Box::pin(newest.get());
        assert!(futures::poll!(&mut first).is_pending());
        assert_eq!(asked.load(Ordering::SeqCst), 1, "nobody is waited for");
        let mut late: Vec<_> = (0..10).map(|_| Box::pin(newest.get())).collect();
        for one in &mut late {
            assert!(futures::poll!(one).is_pending());
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1, "one question at a time");
        tell.send(()).unwrap();
        tell.send(()).unwrap();
        assert_eq!(first.await.unwrap(), 1);
        for one in late {
            assert_eq!(one.await.unwrap(), 2, "the first question was sent before these came");
        }
        tell.send(()).unwrap();
        assert_eq!(newest.get().await.unwrap(), 3, "an answer is not kept");
    }

    #[tokio::test]
    async fn who_goes_away_takes_no_answer_from_others() {
        let (newest, tell, asked) = told();
        let mut gone = Box::pin(newest.get());
        assert!(futures::poll!(&mut gone).is_pending());
        let mut waiting = Box::pin(newest.get());
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(gone);
        tell.send(()).unwrap();
        assert_eq!(waiting.await.unwrap(), 2);
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }
}
