//! The roles that one process can play.

use std::fmt;
use std::str::FromStr;

/// One part of the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Takes events in over HTTP.
    Gateway,
    /// Lands them as Parquet.
    Sink,
    /// Matches rules, finds anomalies, calls webhooks.
    Reaction,
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Gateway, Self::Sink, Self::Reaction];

    pub fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Sink => "sink",
            Self::Reaction => "reaction",
        }
    }
}

/// A set of roles, at least one; written `all` or as names with commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleSet(Vec<Role>);

impl Default for RoleSet {
    fn default() -> Self {
        Self(Role::ALL.to_vec())
    }
}

impl RoleSet {
    pub fn is_all(&self) -> bool {
        self.0.len() == Role::ALL.len()
    }

    pub fn has(&self, role: Role) -> bool {
        self.0.contains(&role)
    }

    pub fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|role| role.name()).collect()
    }
}

impl FromStr for RoleSet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut roles = Vec::new();
        for word in text.split(',').map(str::trim) {
            match Role::ALL.iter().find(|role| role.name() == word) {
                Some(role) => roles.push(*role),
                None if word == "all" => roles.extend(Role::ALL),
                None => return Err("a role is all, gateway, sink or reaction; several are separated by commas".into()),
            }
        }
        roles.sort();
        roles.dedup();
        Ok(Self(roles))
    }
}

impl fmt::Display for RoleSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_all() { f.write_str("all") } else { f.write_str(&self.names().join(",")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_read_and_written() {
        for (text, shown) in
            [("all", "all"), ("sink, gateway", "gateway,sink"), ("reaction,sink,gateway", "all"), ("sink,sink", "sink")]
        {
            assert_eq!(text.parse::<RoleSet>().unwrap().to_string(), shown);
        }
        for wrong in ["", "gatway", "all,x", "gateway,"] {
            assert!(wrong.parse::<RoleSet>().is_err(), "{wrong:?}");
        }
    }
}
