//! Wakes the sender when a request is due.

use std::io;

use tokio::time::Instant;

/// An alarm clock.
///
/// The runtime's own timer ticks in whole milliseconds, which would send every request half a millisecond late; the
/// system's is exact to some microseconds.
#[derive(Debug)]
pub struct Alarm(Kind);

#[derive(Debug)]
enum Kind {
    /// The system's timer.
    #[cfg(target_os = "linux")]
    Exact(exact::Timer),
    /// The runtime's timer.
    Runtime,
}

impl Alarm {
    /// The best there is.
    ///
    /// # Errors
    /// When the system has no timer to give.
    pub fn exact() -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        return exact::Timer::new().map(Kind::Exact).map(Self);
        #[cfg(not(target_os = "linux"))]
        return Ok(Self(Kind::Runtime));
    }

    /// The runtime's own, which follows a clock that tests move.
    #[must_use]
    pub const fn runtime() -> Self {
        Self(Kind::Runtime)
    }

    /// Waits until `due`, and not at all when that has passed. Dropped and asked again, it loses nothing.
    pub(crate) async fn until(&mut self, due: Instant) {
        if due <= Instant::now() {
            return;
        }
        match &mut self.0 {
            #[cfg(target_os = "linux")]
            Kind::Exact(timer) => timer.until(due).await,
            Kind::Runtime => tokio::time::sleep_until(due).await,
        }
    }
}

#[cfg(target_os = "linux")]
mod exact {
    use std::io;
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    use tokio::io::unix::AsyncFd;
    use tokio::time::Instant;

    /// A timer that is a file, so that the runtime waits for it together with the connections.
    #[derive(Debug)]
    pub(crate) struct Timer {
        file: AsyncFd<OwnedFd>,
        set_for: Option<Instant>,
    }

    impl Timer {
        pub(super) fn new() -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let file = timerfd_create(TimerfdClockId::Monotonic, flags)?;
            #[expect(
                deprecated,
                reason = "the warning is about types whose descriptor can change; an owned one stays open and the same"
            )]
            let file = AsyncFd::new(file)?;
            Ok(Self { file, set_for: None })
        }

        pub(super) async fn until(&mut self, due: Instant) {
            while let Some(left) = due.checked_duration_since(Instant::now())
                && !left.is_zero()
            {
                if self.wait(due, left).await.is_err() {
                    // A timer that fails is replaced by the runtime's.
                    tokio::time::sleep_until(due).await;
                }
            }
        }

        async fn wait(&mut self, due: Instant, left: Duration) -> io::Result<()> {
            if self.set_for != Some(due) {
                self.set(left)?;
                self.set_for = Some(due);
            }
            let mut ready = self.file.readable().await?;
            // The ring is taken off by reading it. If there is none, the file is not readable any more.
            let mut rings = [0; 8];
            let read = ready.try_io(|file| Ok(rustix::io::read(file, &mut rings)?));
            if read.is_ok() {
                self.set_for = None;
            }
            Ok(())
        }

        fn set(&self, left: Duration) -> io::Result<()> {
            let time = Itimerspec {
                it_interval: Timespec::default(),
                it_value: Timespec::try_from(left).map_err(io::Error::other)?,
            };
            timerfd_settime(&self.file, TimerfdTimerFlags::empty(), &time)?;
            Ok(())
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[tokio::test]
        async fn it_rings_when_due_also_after_it_was_left_waiting() {
            let mut timer = Timer::new().unwrap();
            let later = Instant::now() + Duration::from_secs(3600);
            let waited = tokio::time::timeout(Duration::from_millis(1), timer.until(later)).await;
            assert!(waited.is_err(), "not due yet");
            for _ in 0..3 {
                let due = Instant::now() + Duration::from_micros(300);
                timer.until(due).await;
                assert!(Instant::now() >= due);
            }
        }
    }
}
