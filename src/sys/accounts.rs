//! Users and groups: who a process can become, and becoming it for good.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist, setegid, seteuid, setgroups, setresgid, setresuid};

use super::lock::Lock;
use crate::model::config::Account;

/// Looks up a user and a group, each by name or number. Without a group, the user's own with all supplementary ones;
/// without a user, this process's user with that group.
pub(crate) fn find(user: Option<&str>, group: Option<&str>) -> Result<Account, String> {
    let found = |what: &str, name: &str, e: nix::Error| format!("cannot look up the {what} '{name}': {}", e.desc());
    let entry = match user {
        Some(name) => {
            let by_name = User::from_name(name).map_err(|e| found("user", name, e))?;
            let number = || name.parse().ok().and_then(|n| User::from_uid(Uid::from_raw(n)).ok().flatten());
            by_name.or_else(number).ok_or_else(|| format!("there is no user '{name}'"))?
        }
        None => {
            let own = Uid::effective();
            let entry = User::from_uid(own).map_err(|e| found("user", &own.to_string(), e))?;
            entry.ok_or_else(|| format!("the user {own}, who runs this, has no name: give 'user' as well"))?
        }
    };
    let gid = match group {
        Some(name) => {
            let by_name = Group::from_name(name).map_err(|e| found("group", name, e))?.map(|g| g.gid);
            let number = || name.parse().ok().map(Gid::from_raw);
            by_name.or_else(number).ok_or_else(|| format!("there is no group '{name}'"))?
        }
        None => entry.gid,
    };
    let name = CString::new(entry.name.clone()).map_err(|_| "a user's name with a NUL character".to_owned())?;
    let groups = getgrouplist(&name, gid).map_err(|e| found("groups of", &entry.name, e))?;
    Ok(Account {
        name: entry.name,
        uid: entry.uid.as_raw(),
        gid: gid.as_raw(),
        groups: groups.into_iter().map(Gid::as_raw).collect(),
        home: entry.dir,
    })
}

/// The number of a group.
pub(crate) fn group(name: &str) -> Result<u32, String> {
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err(format!("there is no group '{name}'")),
        Err(e) => Err(format!("cannot look up the group '{name}': {}", e.desc())),
    }
}

/// The name of a user, or his number where he has none. It is looked up once: a name service may be far.
pub(crate) fn name_of(uid: u32) -> String {
    static NAMES: Lock<BTreeMap<u32, String>> = Lock::new(BTreeMap::new());
    if let Some(name) = NAMES.lock().get(&uid) {
        return name.clone();
    }
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    let name = user.map_or_else(|| uid.to_string(), |user| user.name);
    NAMES.lock().insert(uid, name.clone());
    name
}

/// Does something as another user, whose files and folders are then no way to anybody else's. Call it as root, while the
/// process has one thread.
pub(crate) fn as_user<T>(account: &Account, work: impl FnOnce() -> T) -> io::Result<T> {
    setegid(Gid::from_raw(account.gid))?;
    if let Err(e) = seteuid(Uid::from_raw(account.uid)) {
        setegid(Gid::from_raw(0))?;
        return Err(e.into());
    }
    let done = work();
    seteuid(Uid::from_raw(0))?;
    setegid(Gid::from_raw(0))?;
    Ok(done)
}

/// Becomes an account for good, groups first, and makes sure that there is no way back.
pub(crate) fn become_user(account: &Account) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    if Uid::effective() == uid && Gid::effective() == gid && !Uid::effective().is_root() {
        return Ok(());
    }
    let groups: Vec<Gid> = account.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    let users = nix::unistd::getresuid()?;
    let own = nix::unistd::getresgid()?;
    let whole =
        [users.real, users.effective, users.saved] == [uid; 3] && [own.real, own.effective, own.saved] == [gid; 3];
    let back = !uid.is_root() && nix::unistd::setuid(Uid::from_raw(0)).is_ok();
    if !whole || back {
        return Err(io::Error::other("the privileges could not be dropped for good"));
    }
    Ok(())
}
