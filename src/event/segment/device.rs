//! Reads the device from a message's `context` (<https://segment.com/docs/connections/spec/common/#context>).
//!
//! Invariant: everything that does not move to the device context stays in the message's context.

use super::json::{Object, Value};
use super::value::{count, text};
use crate::event::proto::{DeviceContext, NetworkType, Platform};

/// Moves the fields of a device context out of a message's context.
pub(super) fn device_of(context: &mut Object<'_>) -> Option<DeviceContext> {
    if context.is_empty() {
        return None;
    }
    let platform = platform(context);
    let mut device = DeviceContext {
        platform: platform.into(),
        locale: text(context, &["locale"]),
        timezone: text(context, &["timezone"]),
        ..DeviceContext::default()
    };
    within(context, "os", |os| device.os_version = text(os, &["version"]));
    within(context, "app", |app| {
        device.app_version = text(app, &["version"]);
        device.build_number = text(app, &["build"]);
    });
    within(context, "device", |of| {
        device.device_model = text(of, &["model"]);
        device.manufacturer = text(of, &["manufacturer"]);
    });
    within(context, "screen", |screen| {
        device.screen_width = count(screen, &["width"]);
        device.screen_height = count(screen, &["height"]);
    });
    within(context, "network", |network| {
        device.carrier = text(network, &["carrier"]);
        // Both may be on. Traffic over the cheaper one implies nothing about the other, which stays.
        if network.get("wifi") == Some(&Value::Bool(true)) {
            network.remove("wifi");
            device.network_type = NetworkType::Wifi.into();
        }
    });
    within(context, "library", |library| device.sdk_version = text(library, &["version"]));
    (device != DeviceContext::default()).then_some(device)
}

/// The platform, from the operating system, the device or the library. Removes none of them.
fn platform(context: &Object<'_>) -> Platform {
    let member_text =
        |object: &str, name: &str| context.get(object).and_then(|of| of.get(name)).and_then(Value::as_str);
    let is = |text: Option<&str>, known: &[&str]| {
        text.is_some_and(|text| known.iter().any(|known| text.eq_ignore_ascii_case(known)))
    };
    for named in [member_text("os", "name"), member_text("device", "type")] {
        if is(named, &["ios", "ipados", "iphone os"]) {
            return Platform::Ios;
        }
        if is(named, &["android"]) {
            return Platform::Android;
        }
    }
    match is(member_text("library", "name"), &["analytics.js"]) || context.contains("userAgent") {
        true => Platform::Web,
        false => Platform::Unspecified,
    }
}

/// Reads from an object, and removes it when nothing is left in it.
fn within(context: &mut Object<'_>, name: &str, look: impl FnOnce(&mut Object<'_>)) {
    if let Some(Value::Object(object)) = context.get_mut(name) {
        let was_empty = object.is_empty();
        look(object);
        if object.is_empty() && !was_empty {
            context.remove(name);
        }
    }
}
