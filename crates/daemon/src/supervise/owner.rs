//! The task that owns one live VM from its VMM's start to its end.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::Instant;
use wire::agent::message::{Ending, Event};

use super::activity::Busy;
use super::{BootRef, BootView, Command, Reboot, Supervisors, Verdict};
use crate::guest::secret::Secret;
use crate::guest::{Guest, GuestError};
use crate::model::machine::ExitReason;
use crate::model::restart::End;
use crate::vmm::{AgentChannel, Launch, Vmm};

/// How long one attempt to reach a guest's agent lasts; the next follows while the VMM lives. Long, because an attempt
/// that waits costs nothing and a guest may take any time to boot.
const CONNECT_ATTEMPT: Duration = Duration::from_secs(3600);
/// How long to wait before the next attempt after a failed one.
const RECONNECT_AFTER: Duration = Duration::from_millis(500);
/// How long an agent that has come back may take to say so.
const GREETED_WITHIN: Duration = Duration::from_secs(5);
/// How long the guest's last words may take to arrive once its VMM is gone.
const LAST_WORDS: Duration = Duration::from_secs(1);

pub(super) struct Owner {
    supervisors: Arc<Supervisors>,
    boot: BootRef,
    vmm: Box<dyn Vmm>,
    view: watch::Sender<BootView>,
    orders: mpsc::UnboundedReceiver<Command>,
    /// Where the agent connects, if it is the one to do so and nothing was in the way.
    listener: Option<UnixListener>,
    expected: Option<String>,
    said: Option<Ending>,
    _busy: Busy,
}

/// The connection to the guest, as far as it is.
enum Channel {
    /// Not there; the next attempt begins then.
    Away { until: Instant },
    /// There.
    Open { guest: Guest, events: broadcast::Receiver<Event> },
}

/// What the owner waits for.
enum Happened {
    Exited(ExitReason),
    Told(Option<Command>),
    Connected(Guest),
    Lost,
    Said(Event),
}

impl Owner {
    pub(super) fn new(
        supervisors: Arc<Supervisors>,
        boot: BootRef,
        vmm: Box<dyn Vmm>,
        view: watch::Sender<BootView>,
        orders: mpsc::UnboundedReceiver<Command>,
    ) -> Owner {
        let busy = supervisors.activity.begin();
        // At once: an agent that finds nobody there is kept waiting longer each time.
        let listener = listen(&boot.launch).unwrap_or_default();
        Owner { supervisors, boot, vmm, view, orders, listener, expected: None, said: None, _busy: busy }
    }

    /// Owns it to its end; `guest` is the connection to its guest, where there is one already.
    pub(super) async fn run(mut self, guest: Option<Guest>) {
        let mut channel = match guest {
            Some(guest) => Channel::Open { events: guest.events(), guest },
            None => Channel::Away { until: Instant::now() },
        };
        let mut may_be_told = true;
        let exit = loop {
            match self.next(&mut channel, may_be_told).await {
                Happened::Exited(exit) => break exit,
                Happened::Told(Some(command)) => self.obey(&command).await,
                Happened::Told(None) => may_be_told = false,
                Happened::Connected(guest) => {
                    let events = guest.events();
                    self.view.send_modify(|view| view.guest = Some(guest.clone()));
                    channel = Channel::Open { guest, events };
                }
                Happened::Lost => {
                    self.view.send_modify(|view| view.guest = None);
                    channel = Channel::Away { until: Instant::now() + RECONNECT_AFTER };
                }
                Happened::Said(event) => self.hear(event).await,
            }
        };
        // What was said before the end is heard, whichever of the two was noticed first.
        while let Ok(Command::ExpectEnd(how)) = self.orders.try_recv() {
            self.expected = Some(how);
        }
        self.last_words(channel).await;
        self.end(&exit).await;
    }

    async fn next(&mut self, channel: &mut Channel, may_be_told: bool) -> Happened {
        let (launch, listener) = (&self.boot.launch, &mut self.listener);
        let talk = async {
            match channel {
                Channel::Away { until } => {
                    tokio::time::sleep_until(*until).await;
                    match reach(launch, listener, Instant::now() + CONNECT_ATTEMPT).await {
                        Ok(guest) => Happened::Connected(guest),
                        Err(error) => {
                            tracing::debug!(error = %error, "the guest's agent is not reached");
                            Happened::Lost
                        }
                    }
                }
                Channel::Open { guest, events } => loop {
                    tokio::select! {
                        biased;
                        event = events.recv() => match event {
                            Ok(event) => break Happened::Said(event),
                            Err(broadcast::error::RecvError::Lagged(_)) => {}
                            Err(broadcast::error::RecvError::Closed) => break Happened::Lost,
                        },
                        never = meet_again(launch, listener.as_ref(), guest) => match never {},
                        error = guest.closed() => {
                            tracing::debug!(error = %error, "the guest's channel ended");
                            // Words that came before the end are still to be heard.
                            match events.try_recv() {
                                Ok(event) => break Happened::Said(event),
                                Err(_) => break Happened::Lost,
                            }
                        }
                    }
                },
            }
        };
        tokio::select! {
            exit = self.vmm.wait() => Happened::Exited(exit),
            command = self.orders.recv(), if may_be_told => Happened::Told(command),
            happened = talk => happened,
        }
    }

    async fn obey(&mut self, command: &Command) {
        match command {
            Command::ExpectEnd(how) => self.expected = Some(how.clone()),
            Command::Kill => {
                self.expected.get_or_insert_with(|| "killed".to_owned());
                if let Err(error) = self.vmm.kill().await {
                    tracing::error!(vm = %self.boot.vm, error = %error, "the VMM cannot be killed");
                }
            }
        }
    }

    async fn hear(&mut self, event: Event) {
        match event {
            Event::Ending { how } => self.said = Some(how),
            Event::Warning { message } => {
                tracing::warn!(vm = %self.boot.vm, message, "the guest warns");
                if let Err(error) = self.supervisors.store.warn_boot(&self.boot.boot, &message).await {
                    tracing::error!(error = %error, "a guest's warning is not recorded");
                }
            }
        }
    }

    /// Hears what the guest said right before its VMM ended.
    async fn last_words(&mut self, channel: Channel) {
        let Channel::Open { guest, mut events } = channel else {
            return;
        };
        // Whoever holds it waits for nobody.
        guest.release(Duration::ZERO);
        // A connection that outlives its VMM has nothing more to say.
        drop(tokio::time::timeout(LAST_WORDS, guest.closed()).await);
        while let Ok(event) = events.try_recv() {
            self.hear(event).await;
        }
    }

    async fn end(self, exit: &ExitReason) {
        let verdict = judge(self.expected.as_deref(), self.said, exit);
        let how = &verdict.how;
        let (vm, boot) = (self.boot.vm.clone(), self.boot.boot.clone());
        tracing::info!(%vm, %boot, how, "a boot ended");
        let is_bad = matches!(exit, ExitReason::Ended { code: Some(1..) } | ExitReason::Crashed { .. });
        let last_error = (is_bad && verdict.end == End::Failed).then(|| format!("the last boot ended badly: {how}"));
        let mut closed = self.supervisors.close(&self.boot, &verdict, last_error.clone()).await;
        self.view.send_modify(|view| {
            view.guest = None;
            view.ended = Some(how.clone());
        });
        if matches!(closed, Ok(false)) {
            // A stop that held the VM may have been taken back since, by an operation that still saw the VMM run.
            closed = self.supervisors.close(&self.boot, &verdict, last_error).await;
        }
        self.supervisors.forget(&vm, &boot);
        match closed {
            Ok(true) if self.expected.is_none() && self.said == Some(Ending::Reboot) => {
                // Without a receiver nobody begins starts: the daemon is going down.
                drop(self.supervisors.reboots.send(Reboot { vm, boot }));
            }
            Ok(_) => {}
            Err(error) => tracing::error!(%vm, %boot, %error, "the end of a boot is not tidied up"),
        }
    }
}

/// Makes the socket that the agent connects to; none where it does not.
fn listen(launch: &Launch) -> std::io::Result<Option<UnixListener>> {
    match launch.agent {
        AgentChannel::Dial => Ok(None),
        AgentChannel::Await => {
            let listener = sys::socket::listen_for_all(&launch.agent_socket())?;
            listener.set_nonblocking(true)?;
            UnixListener::from_std(listener).map(Some)
        }
    }
}

/// The guest of `launch`, however it is met.
async fn reach(launch: &Launch, listener: &mut Option<UnixListener>, deadline: Instant) -> Result<Guest, GuestError> {
    if listener.is_none() {
        *listener = listen(launch)
            .map_err(|source| GuestError::Listen { path: launch.agent_socket(), source: Arc::new(source) })?;
    }
    match listener {
        Some(listener) => Guest::meet(listener, secret(launch)?.as_ref(), deadline).await,
        None => Guest::connect(&launch.agent_socket(), deadline).await,
    }
}

/// What the agent of `launch` says once it was told to.
fn secret(launch: &Launch) -> Result<Option<Secret>, GuestError> {
    Secret::kept(&launch.boot_dir)
        .map_err(|source| GuestError::Secret { path: Secret::path(&launch.boot_dir), source: Arc::new(source) })
}

/// The guest of a VMM that nobody owns yet.
///
/// # Errors
/// When it is not met before `deadline`.
pub async fn meet(launch: &Launch, deadline: Instant) -> Result<Guest, GuestError> {
    reach(launch, &mut None, deadline).await
}

/// Goes on over a further connection where the one there is, is held. Else ends it: it is some program of the guest's that is not
/// the agent. Left waiting, they would fill the queue, and the VMM with it.
async fn meet_again(launch: &Launch, listener: Option<&UnixListener>, guest: &Guest) -> Infallible {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    loop {
        match listener.accept().await {
            Ok((socket, _)) if guest.is_held() => {
                let gone_on = async {
                    let secret = secret(launch)?;
                    guest.go_on_over(socket, secret.as_ref(), Instant::now() + GREETED_WITHIN).await
                };
                if let Err(error) = gone_on.await {
                    tracing::debug!(%error, "what connected is not the agent that was held");
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "cannot turn away a connection from a guest");
                tokio::time::sleep(RECONNECT_AFTER).await;
            }
        }
    }
}

/// How a boot ended, and what that is taken for.
fn judge(expected: Option<&str>, said: Option<Ending>, exit: &ExitReason) -> Verdict {
    let (how, end) = match (expected, said, exit) {
        (Some(how), _, _) => (how.to_owned(), End::Wanted),
        (None, Some(Ending::PowerOff), ExitReason::Ended { .. } | ExitReason::Killed) => {
            ("poweroff".to_owned(), End::Wanted)
        }
        (None, Some(Ending::Reboot), ExitReason::Ended { .. } | ExitReason::Killed) => {
            ("reboot".to_owned(), End::Wanted)
        }
        (None, None, ExitReason::Ended { code: Some(0) }) => ("ended without saying why".to_owned(), End::Silent),
        // Of a VMM that an earlier daemon started nobody learns the status.
        (None, None, ExitReason::Ended { code: None }) => ("ended without saying why".to_owned(), End::Failed),
        (None, None, ExitReason::Ended { code: Some(code) }) => {
            (format!("the VMM failed with status {code}"), End::Failed)
        }
        (None, None, ExitReason::Killed) => ("killed".to_owned(), End::Wanted),
        (None, _, ExitReason::Crashed { signal: Some(signal) }) => {
            (format!("the VMM was ended by signal {signal}"), End::Failed)
        }
        (None, _, ExitReason::Crashed { signal: None }) => ("the VMM was ended by a signal".to_owned(), End::Failed),
    };
    Verdict { how, end }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_named() {
        let ended = |code| ExitReason::Ended { code };
        let crashed = ExitReason::Crashed { signal: Some(11) };
        for (expected, said, exit, text, end) in [
            (Some("stop"), Some(Ending::PowerOff), ended(Some(0)), "stop", End::Wanted),
            (Some("idle for 30 min"), None, crashed.clone(), "idle for 30 min", End::Wanted),
            (None, Some(Ending::PowerOff), ended(Some(0)), "poweroff", End::Wanted),
            (None, Some(Ending::Reboot), ended(None), "reboot", End::Wanted),
            (None, None, ended(Some(0)), "ended without saying why", End::Silent),
            (None, None, ended(None), "ended without saying why", End::Failed),
            (None, None, ended(Some(1)), "the VMM failed with status 1", End::Failed),
            (None, Some(Ending::Reboot), crashed, "the VMM was ended by signal 11", End::Failed),
        ] {
            let verdict = judge(expected, said, &exit);
            assert_eq!((verdict.how.as_str(), verdict.end), (text, end));
        }
    }
}
