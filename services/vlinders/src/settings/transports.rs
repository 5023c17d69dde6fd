//! Which ways KV blocks may take.

use vlinders_service_kit::SettingValue;

use super::BackendKind;

/// Whether this build has it.
const HAS_NIXL: bool = cfg!(feature = "nixl");

/// Which ways KV blocks may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KvTransports {
    pub(crate) shm: bool,
    pub(crate) tcp: bool,
    pub(crate) nixl: Option<NixlUse>,
    is_auto: bool,
}

/// When `nixl` is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NixlUse {
    /// It was asked for by name: always, and over plain TCP where there is nothing better.
    Always,
    /// Where it is installed and has RDMA.
    IfProtected,
}

impl KvTransports {
    /// What this build and the backend can do.
    pub(crate) const AUTO: Self = Self {
        shm: true,
        tcp: true,
        nixl: if HAS_NIXL {
            Some(NixlUse::IfProtected)
        } else {
            None
        },
        is_auto: true,
    };

    /// What of it goes with this backend, and with a model that so many devices share.
    ///
    /// # Errors
    /// When something that was asked for by name does not.
    pub(crate) fn with(self, backend: BackendKind, devices: u32) -> Result<Self, &'static str> {
        if backend == BackendKind::Cpu && devices == 1 {
            return Ok(self);
        }
        if self.shm && !self.is_auto {
            return Err(
                "`shm` needs --backend cpu and one device, whose blocks other processes can read; use `tcp`",
            );
        }
        if self.nixl == Some(NixlUse::Always) {
            return Err(
                "`nixl` needs --backend cpu and one device, whose blocks lie in one place; use `tcp`",
            );
        }
        Ok(Self {
            shm: false,
            nixl: None,
            ..self
        })
    }

    /// Whether others connect by the network.
    pub(crate) fn listen(self) -> bool {
        self.tcp || self.nixl.is_some()
    }
}

impl SettingValue for KvTransports {
    fn read(text: &str) -> Result<Self, String> {
        let mut transports = Self {
            shm: false,
            tcp: false,
            nixl: None,
            is_auto: false,
        };
        for name in text.split(',').map(str::trim) {
            match name {
                "shm" => transports.shm = true,
                "tcp" => transports.tcp = true,
                "nixl" if HAS_NIXL => transports.nixl = Some(NixlUse::Always),
                "nixl" => {
                    let text = "asks for `nixl`, which this build lacks; build with `--features nixl`, or use `auto`";
                    return Err(text.to_owned());
                }
                "auto" => return Ok(Self::AUTO),
                _ => {
                    let text = "is no list of transports; use `auto`, or some of `shm`, `tcp` and `nixl` with commas";
                    return Err(text.to_owned());
                }
            }
        }
        Ok(transports)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nixl_is_for_builds_that_have_it() {
        let read = KvTransports::read("nixl,tcp");
        if HAS_NIXL {
            let read = read.unwrap();
            assert!(read.nixl == Some(NixlUse::Always) && read.tcp && !read.shm);
        } else {
            let text = read.unwrap_err();
            assert!(
                text.contains("this build lacks") && text.contains("--features nixl"),
                "{text}"
            );
            assert_eq!(KvTransports::AUTO.nixl, None);
        }
        assert!(KvTransports::read("rdma").is_err());
    }

    #[test]
    fn other_backends_leave_out_what_they_cannot_do_unless_it_was_asked_for() {
        let auto = KvTransports::AUTO.with(BackendKind::Reference, 1).unwrap();
        assert!(auto.tcp && !auto.shm && auto.nixl.is_none() && auto.listen());
        let shm = KvTransports::read("shm").unwrap();
        assert!(shm.with(BackendKind::Reference, 1).is_err());
        assert!(shm.with(BackendKind::Cpu, 2).is_err());
        assert_eq!(KvTransports::AUTO.with(BackendKind::Cpu, 2), Ok(auto));
        assert_eq!(shm.with(BackendKind::Cpu, 1), Ok(shm));
        assert!(!shm.listen());
    }
}
