//! Asking a running server to stop, from any thread.

use tokio::sync::watch;

/// How far a stop was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Asked {
    Nothing,
    /// Let what can end, end.
    Graceful,
    /// Do not wait for anything.
    AtOnce,
}

/// The server's side: [`crate::run`] takes it.
#[derive(Clone, Debug)]
pub struct Shutdown {
    asked: watch::Receiver<Asked>,
}

/// The asking side. Cloneable; usable from any thread, also from a signal-watching one.
#[derive(Clone, Debug)]
pub struct ShutdownHandle {
    asked: watch::Sender<Asked>,
}

/// A handle and the server's side of it. Dropping every handle asks for nothing.
#[must_use]
pub fn shutdown() -> (ShutdownHandle, Shutdown) {
    let (sender, asked) = watch::channel(Asked::Nothing);
    (ShutdownHandle { asked: sender }, Shutdown { asked })
}

impl ShutdownHandle {
    /// Asks for a graceful stop; the second request asks to stop at once. Either way the log is
    /// closed cleanly.
    pub fn request(&self) {
        self.asked.send_modify(|asked| {
            *asked = if *asked == Asked::Nothing { Asked::Graceful } else { Asked::AtOnce };
        });
    }
}

impl Shutdown {
    pub(crate) fn asked(&self) -> Asked {
        *self.asked.borrow()
    }

    /// Ends when more is asked for than before; never if nobody can ask any more.
    pub(crate) async fn changed(&mut self) {
        if self.asked.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_request_is_at_once_and_later_ones_change_nothing() {
        let (handle, shutdown) = shutdown();
        assert_eq!(shutdown.asked(), Asked::Nothing);
        handle.request();
        assert_eq!(shutdown.asked(), Asked::Graceful);
        handle.clone().request();
        handle.request();
        assert_eq!(shutdown.asked(), Asked::AtOnce);
    }
}
