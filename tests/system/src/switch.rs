//! A switch with hosts on it, made of network namespaces.
//!
//! Each namespace is held open by a process that waits for the end of its input, so everything here vanishes with us,
//! however we end. The test itself has a cable to the switch.

use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};

use crate::background::{Background, bound};
use crate::{Dice, until};

/// The last number of the test's own address; those of the hosts follow.
const OURS: u8 = 1;
/// Hosts beside ours.
const HOSTS: usize = 100;

/// The switch.
#[derive(Debug)]
pub struct Switch {
    bridge: Namespace,
    /// The first three numbers of every address.
    network: [u8; 3],
    hosts: Vec<Namespace>,
}

/// A host on the switch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Host {
    pub(crate) address: IpAddr,
    /// Of the process that holds its namespace.
    holder: u32,
}

#[derive(Debug)]
struct Namespace(Background);

impl Switch {
    /// Makes one with a cable to this process.
    ///
    /// # Errors
    /// When the system does not let us: it takes root, or `CAP_NET_ADMIN` and `CAP_SYS_ADMIN`.
    pub async fn new() -> anyhow::Result<Self> {
        let bridge = Namespace::new().await?;
        bridge.ip("link add switch type bridge")?;
        bridge.ip("link set switch up")?;
        let network = free_network()?;
        let switch = Self {
            bridge,
            network,
            hosts: Vec::new(),
        };
        // At most 15 letters.
        let cable = format!("vl{}", std::process::id());
        ip(&format!(
            "link add {cable} type veth peer name ours netns {}",
            switch.bridge.holder()
        ))?;
        switch.bridge.ip("link set ours master switch up")?;
        ip(&format!("address add {}/24 dev {cable}", switch.address(OURS)))?;
        ip(&format!("link set {cable} up"))?;
        Ok(switch)
    }

    /// Where the test itself is.
    #[must_use]
    pub fn ours(&self) -> IpAddr {
        self.address(OURS)
    }

    /// Connects one more host.
    pub(crate) async fn host(&mut self) -> anyhow::Result<Host> {
        let number = self.hosts.len();
        ensure!(number < HOSTS, "the switch is full");
        let host = Namespace::new().await?;
        let facts = Host {
            address: self.address(OURS + 1 + u8::try_from(number)?),
            holder: host.holder(),
        };
        let port = format!("port{number}");
        self.bridge.ip(&format!(
            "link add {port} type veth peer name up0 netns {}",
            host.holder()
        ))?;
        self.bridge.ip(&format!("link set {port} master switch up"))?;
        host.ip(&format!("address add {}/24 dev up0", facts.address))?;
        host.ip("link set up0 up")?;
        host.ip("link set lo up")?;
        self.hosts.push(host);
        Ok(facts)
    }

    fn address(&self, last: u8) -> IpAddr {
        let [a, b, c] = self.network;
        Ipv4Addr::new(a, b, c, last).into()
    }
}

impl Host {
    /// What to put before a command that shall run there.
    pub(crate) fn enter(&self) -> [String; 3] {
        enter(self.holder)
    }
}

impl Namespace {
    async fn new() -> anyhow::Result<Self> {
        let mut command = bound("KILL");
        // `cat` ends with its input, which is open as long as we hold it.
        command
            .args(["--", "unshare", "--net", "--", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut process = Background::spawn(command)?;
        let ours = std::fs::read_link("/proc/self/ns/net")?;
        let path = format!("/proc/{}/ns/net", process.id());
        let is_made = until(async || {
            if process.status().is_some() {
                return Ok(false);
            }
            ensure!(std::fs::read_link(&path)? != ours, "no namespace yet");
            Ok(true)
        })
        .await?;
        ensure!(is_made, "this system does not let us make network namespaces");
        Ok(Self(process))
    }

    fn holder(&self) -> u32 {
        self.0.id()
    }

    /// Runs `ip` inside.
    fn ip(&self, arguments: &str) -> anyhow::Result<()> {
        let [program, options @ ..] = enter(self.holder());
        let mut command = Command::new(program);
        command.args(options).arg("ip").args(arguments.split(' '));
        done(command)
    }
}

fn enter(holder: u32) -> [String; 3] {
    let namespace = format!("--net=/proc/{holder}/ns/net");
    ["nsenter".to_owned(), namespace, "--".to_owned()]
}

/// Runs `ip` where we are.
fn ip(arguments: &str) -> anyhow::Result<()> {
    let mut command = Command::new("ip");
    command.args(arguments.split(' '));
    done(command)
}

fn done(mut command: Command) -> anyhow::Result<()> {
    let ended = command
        .output()
        .with_context(|| format!("{command:?} (of the packages iproute2 and util-linux)"))?;
    if !ended.status.success() {
        bail!(
            "{command:?}: {}",
            String::from_utf8_lossy(&ended.stderr).trim_end()
        );
    }
    Ok(())
}

/// A network of those kept for tests between networks (RFC 2544) that nobody here uses.
fn free_network() -> anyhow::Result<[u8; 3]> {
    let mut dice = Dice::new(std::process::id().into());
    let mut tried = (0..100).map(|_| u8::try_from(dice.below(256)).expect("below 256"));
    tried
        .find_map(|third| {
            let route = format!("198.18.{third}.0/24");
            let known = Command::new("ip").args(["route", "show", &route]).output().ok()?;
            known.stdout.is_empty().then_some([198, 18, third])
        })
        .context("every test network is in use")
}
