//! The device context of an event, read in place.

use std::borrow::Cow;

use crate::event::codec::wire::{DecodeError, Reader};
use crate::event::schema::tables::{Enum, NETWORK_TYPE, PLATFORM};

/// The fields of a device context.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeviceRef<'a> {
    pub platform: i32,
    pub os_version: &'a str,
    pub app_version: &'a str,
    pub build_number: &'a str,
    pub device_model: &'a str,
    pub manufacturer: &'a str,
    pub screen_width: i32,
    pub screen_height: i32,
    pub locale: &'a str,
    pub timezone: &'a str,
    pub network_type: i32,
    pub carrier: &'a str,
    pub is_jailbroken: bool,
    pub is_emulator: bool,
    pub sdk_version: &'a str,
}

impl<'a> DeviceRef<'a> {
    pub(super) fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut device = Self::default();
        let mut reader = Reader::new(bytes);
        while let Some((number, value)) = reader.next()? {
            match number {
                1 => device.platform = value.varint()? as i32,
                2 => device.os_version = value.text()?,
                3 => device.app_version = value.text()?,
                4 => device.build_number = value.text()?,
                5 => device.device_model = value.text()?,
                6 => device.manufacturer = value.text()?,
                7 => device.screen_width = value.varint()? as i32,
                8 => device.screen_height = value.varint()? as i32,
                9 => device.locale = value.text()?,
                10 => device.timezone = value.text()?,
                11 => device.network_type = value.varint()? as i32,
                12 => device.carrier = value.text()?,
                13 => device.is_jailbroken = value.varint()? != 0,
                14 => device.is_emulator = value.varint()? != 0,
                15 => device.sdk_version = value.text()?,
                _ => {}
            }
        }
        Ok(device)
    }
}

impl DeviceRef<'_> {
    /// `PLATFORM_IOS` and so on. A number without a name is written as digits.
    pub fn platform_name(&self) -> Cow<'static, str> {
        name_or_number(&PLATFORM, self.platform)
    }

    pub fn network_type_name(&self) -> Cow<'static, str> {
        name_or_number(&NETWORK_TYPE, self.network_type)
    }
}

fn name_or_number(names: &Enum, number: i32) -> Cow<'static, str> {
    names.name(number).map_or_else(|| number.to_string().into(), Cow::Borrowed)
}
