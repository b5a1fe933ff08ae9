//! AppArmor, where the kernel enforces it: the profile that containers have by default, and those of the node that
//! a container may ask for.
//!
//! The kernel takes profiles compiled, and only `apparmor_parser` compiles them. A node that has not got it is
//! one without AppArmor.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

/// The default, but for its name.
const DEFAULT: &str = include_str!("apparmor_default.profile");

/// Where the kernel says which profiles it has.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";

/// The name of the default profile. It says what is in it, so that a newer one is loaded beside it.
pub(crate) fn default_name() -> String {
    let digest = Sha256::digest(DEFAULT);
    format!("kutter-default-{:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3])
}

/// Makes sure that the kernel has the default profile. The error says why there is no AppArmor here, for the
/// operator.
pub(crate) fn prepare() -> Result<(), String> {
    let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    if !enabled.is_ok_and(|text| text.starts_with('Y')) {
        return Err("AppArmor is not enabled on the host".to_owned());
    }
    match is_loaded(&default_name()) {
        Ok(true) => Ok(()),
        Ok(false) => load_default(),
        Err(error) => Err(format!("AppArmor does not tell its profiles: {LOADED}: {error}")),
    }
}

/// Whether the kernel has this profile.
pub(crate) fn is_loaded(name: &str) -> io::Result<bool> {
    Ok(lists(&fs::read_to_string(LOADED)?, name))
}

/// A line is "name (mode)"; a name may have blanks.
fn lists(profiles: &str, name: &str) -> bool {
    profiles.lines().any(|line| line.rsplit_once(" (").is_some_and(|(found, _)| found == name))
}

fn load_default() -> Result<(), String> {
    let parser = ["/usr/sbin/apparmor_parser", "/sbin/apparmor_parser"];
    let Some(parser) = parser.into_iter().find(|path| Path::new(path).exists()) else {
        return Err("apparmor_parser is not installed on the host".to_owned());
    };
    let of = |error: &dyn std::fmt::Display| format!("load the default AppArmor profile: {error}");
    let mut child = Command::new(parser)
        .args(["--replace", "--skip-cache", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| of(&e))?;
    let text = DEFAULT.replace("NAME", &default_name());
    let written = child.stdin.take().map(|mut stdin| stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().map_err(|e| of(&e))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(of(&format_args!("{}: {}", output.status, said.trim())));
    }
    written.transpose().map(drop).map_err(|e| of(&e))
}

/// Has the next `execve` of this process put it under a profile.
pub(crate) fn on_exec(profile: &str) -> io::Result<()> {
    super::on_exec::write("attr/apparmor/exec", &format!("exec {profile}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_found_by_its_whole_name() {
        let profiles = "kutter-default-1 (enforce)\na b (x) (complain)\n:ns://one (kill)\n";
        for name in ["kutter-default-1", "a b (x)", ":ns://one"] {
            assert!(lists(profiles, name), "{name}");
        }
        for name in ["kutter-default", "a b", "one", ""] {
            assert!(!lists(profiles, name), "{name}");
        }
    }

    #[test]
    fn the_default_is_named_after_what_it_says() {
        assert!(default_name().starts_with("kutter-default-"));
        assert!(DEFAULT.contains("\nprofile NAME flags="));
    }
}
