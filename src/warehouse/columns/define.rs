//! The macro that reads the table of columns.

/// Defines `COLUMNS`, and the functions that take the values of all of them from an event and from a device context.
macro_rules! columns {
    ($( $name:ident: $kind:ident $(($($option:ident),*))? $(= $value:expr)?; )*) => {
        #[allow(clippy::needless_update, reason = "a column may have every option")]
        pub(crate) const COLUMNS: &[Column] = &[$(
            Column {
                name: stringify!($name),
                kind: Kind::$kind,
                options: Options { $($($option: true,)*)? ..Options::NONE },
            },
        )*];

        /// The values of an event.
        #[inline]
        pub(crate) fn values<'a>(event: &EventRef<'a>, origin: Origin) -> Values<'a> {
            let mut texts = Filling { values: [""; TEXTS], filled: 0 };
            let mut numbers = Filling { values: [0; NUMBERS], filled: 0 };
            $( columns!(@event $kind texts numbers event origin $($value)?); )*
            Values { texts: texts.values, numbers: numbers.values }
        }

        /// The values of a device context.
        pub(crate) fn device_values<'a>(device: &DeviceRef<'a>) -> DeviceValues<Cow<'a, str>> {
            let mut texts = Filling { values: [const { Cow::Borrowed("") }; DEVICE_TEXTS], filled: 0 };
            let mut numbers = Filling { values: [0; DEVICE_NUMBERS], filled: 0 };
            let mut flags = Filling { values: [false; DEVICE_FLAGS], filled: 0 };
            $( columns!(@device $kind texts numbers flags device $($value)?); )*
            DeviceValues { texts: texts.values, numbers: numbers.values, flags: flags.values }
        }
    };
    (@event Text $texts:ident $numbers:ident $event:ident $origin:ident $value:expr) => {
        $texts.push(of_event($event, $origin, $value))
    };
    (@event Number $texts:ident $numbers:ident $event:ident $origin:ident $value:expr) => {
        $numbers.push(of_event($event, $origin, $value))
    };
    (@event $($other:tt)*) => {};
    (@device DeviceText $texts:ident $numbers:ident $flags:ident $device:ident $value:expr) => {
        $texts.push(of_device($device, $value))
    };
    (@device DeviceNumber $texts:ident $numbers:ident $flags:ident $device:ident $value:expr) => {
        $numbers.push(of_device($device, $value))
    };
    (@device DeviceFlag $texts:ident $numbers:ident $flags:ident $device:ident $value:expr) => {
        $flags.push(of_device($device, $value))
    };
    (@device $($other:tt)*) => {};
}

pub(super) use columns;
