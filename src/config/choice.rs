//! Settings with a fixed set of values.

use super::value::Setting;

/// Declares a setting with a fixed set of values.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($variant),+ }

        impl Setting for $name {
            fn parse(text: &str) -> Result<Self, String> {
                match text.trim().to_ascii_lowercase().as_str() {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(format!("one of {}", [$($word),+].join(", "))),
                }
            }

            fn show(&self) -> String {
                match self { $(Self::$variant => $word.into()),+ }
            }
        }
    };
}

choice! {
    /// The least severe level to log.
    LogLevel { Error = "error", Warn = "warn", Info = "info", Debug = "debug", Trace = "trace" }
}
choice! {
    /// `auto`: text on a terminal, else JSON.
    LogFormat { Auto = "auto", Text = "text", Json = "json" }
}
choice! {
    /// Where JetStream keeps messages.
    Storage { File = "file", Memory = "memory" }
}
choice! {
    /// How events are published to JetStream.
    Publishing { Auto = "auto", Single = "single", Atomic = "atomic" }
}
choice! {
    /// `sslmode`, as libpq defines it.
    SslMode {
        Disable = "disable", Prefer = "prefer", Require = "require", VerifyCa = "verify-ca", VerifyFull = "verify-full",
    }
}
choice! {
    /// The codec of Parquet pages.
    Codec { Snappy = "snappy", Gzip = "gzip", Zstd = "zstd", None = "none" }
}
