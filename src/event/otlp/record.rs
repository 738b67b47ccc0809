//! Converts one log record, with its resource and scope, to an event.

use std::collections::HashMap;
use std::fmt::Write as _;

use data_encoding::HEXLOWER;
use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN, digest};

use super::values::{NOT_UTF8, Values, fields, for_each, pair_of, text_of};
use crate::event::codec::struct_members;
use crate::event::codec::wire::{Value, put_bytes, put_number};
use crate::event::intake::admit::Arrival;
use crate::event::intake::field_error::FieldError;
use crate::event::intake::request::Accepted;
use crate::event::intake::validate::Unchecked;
use crate::event::model::ids::is_id;
use crate::event::schema::limits::APP_ID_BYTES_MAX;

/// The event name of a record without one.
const LOG: &str = "log";
/// The name that the SDKs give a service without one.
const NO_SERVICE: &str = "unknown_service";
const NANOS_IN_MILLI: u64 = 1_000_000;
const CUSTOM_EVENT: u32 = 900;
const FINGERPRINT_BYTES: usize = 16;

/// Identifies a record by everything in it.
type Fingerprint = [u8; FINGERPRINT_BYTES];

/// How often each record occurred before.
#[derive(Debug, Default)]
pub(super) struct SeenRecords {
    counts: HashMap<Fingerprint, u32>,
    /// Equal records before the first of this request.
    pub(super) before: u32,
}

impl SeenRecords {
    /// Bytes per record that the table takes at most, while it grows.
    pub(super) const BYTES: usize = 4 * (size_of::<(Fingerprint, u32)>() + 1);

    /// Counts a record. Returns how many equal ones came before.
    fn count(&mut self, fingerprint: Fingerprint) -> u32 {
        let count = self.counts.entry(fingerprint).or_insert(self.before);
        *count += 1;
        *count - 1
    }
}

/// Ids in the attributes of a resource or a record.
#[derive(Clone, Copy, Debug, Default)]
struct KnownIds<'a> {
    device_id: Option<&'a str>,
    user_id: Option<&'a str>,
    session_id: Option<&'a str>,
}

impl<'a> KnownIds<'a> {
    /// An invalid id remains an attribute only.
    fn set(&mut self, key: &str, text: Option<&'a str>) {
        let text = text.filter(|text| is_id(text));
        *match key {
            "device.id" => &mut self.device_id,
            "user.id" => &mut self.user_id,
            "session.id" => &mut self.session_id,
            _ => return,
        } = text;
    }
}

/// The source of records, read once for all of its records.
#[derive(Debug, Default)]
pub(super) struct Resource<'a> {
    known: KnownIds<'a>,
    instance: Option<&'a str>,
    service: Option<&'a str>,
    namespace: Option<&'a str>,
    /// An encoded `DeviceContext`. Empty if nothing is known about it.
    device: Vec<u8>,
    /// Members of `properties` about the resource.
    members: Vec<u8>,
    values: Values,
    /// Digest of its attributes.
    digest: [u8; SHA256_OUTPUT_LEN],
}

impl<'a> Resource<'a> {
    /// Reads a `ResourceLogs`.
    pub(super) fn of(resource_logs: &'a [u8]) -> Self {
        let mut this = Self::default();
        let [resource, schema_url] = fields(resource_logs, [1, 3]);
        if let Some(Value::Bytes(resource)) = resource {
            this.digest = digest(&SHA256, resource).as_ref().try_into().unwrap_or_default();
            let mut attributes = Vec::new();
            this.values.members(&mut attributes, resource, 1);
            if !attributes.is_empty() {
                struct_members::put_object(&mut this.members, "resource", &attributes);
            }
            for_each(resource, 1, |pair| {
                if let Ok((key, value)) = pair_of(pair) {
                    this.set(key, text_of(value));
                }
                true
            });
        }
        put_text(&mut this.members, "resource_schema_url", schema_url, &mut this.values);
        this
    }

    fn set(&mut self, key: &str, text: Option<&'a str>) {
        match key {
            "service.instance.id" => self.instance = text.filter(|text| is_id(text)),
            "service.name" => self.service = text,
            "service.namespace" => self.namespace = text,
            _ => self.known.set(key, text),
        }
        let Some(text) = text else { return };
        let number = match key {
            "os.name" => match platform(text) {
                Some(platform) => return put_number(&mut self.device, 1, platform),
                None => return,
            },
            "telemetry.sdk.language" if text == "webjs" => return put_number(&mut self.device, 1, WEB),
            "os.version" => 2,
            "service.version" => 3,
            "app.build_id" => 4,
            "device.model.identifier" => 5,
            "device.manufacturer" => 6,
            "browser.language" => 9,
            "telemetry.sdk.version" => 15,
            _ => return,
        };
        put_bytes(&mut self.device, number, text.as_bytes());
    }

    /// Bytes that every one of its records repeats.
    pub(super) fn bytes_len(&self) -> usize {
        self.members.len() + self.device.len()
    }

    /// The app of a sender without an API key, mapped to a valid app id.
    pub(super) fn app(&self) -> Option<String> {
        let plain = |letter: char| if letter.is_ascii_alphanumeric() || ".-".contains(letter) { letter } else { '_' };
        let app = |name: &str| {
            let name: String = name.chars().map(plain).take(APP_ID_BYTES_MAX).collect();
            let name = name.trim_start_matches(|letter: char| !letter.is_ascii_alphanumeric());
            (!name.is_empty()).then(|| name.to_owned())
        };
        self.namespace.and_then(app).or_else(|| self.service.and_then(app))
    }
}

/// Numbers of the enum `Platform`.
const WEB: u64 = 3;

/// The platform for `os.name`.
fn platform(os: &str) -> Option<u64> {
    [("ios", 1), ("ipados", 1), ("android", 2)]
        .into_iter()
        .find_map(|(name, platform)| os.eq_ignore_ascii_case(name).then_some(platform))
}

/// The instrumentation library that emits records.
#[derive(Debug, Default)]
pub(super) struct Scope {
    /// Digest of its resource and itself, computed once for all records.
    digest: [u8; SHA256_OUTPUT_LEN],
    members: Vec<u8>,
    values: Values,
}

impl Scope {
    /// Reads a `ScopeLogs` of a resource.
    pub(super) fn of(scope_logs: &[u8], resource: &Resource<'_>) -> Self {
        let mut this = Self::default();
        let [scope, schema_url] = fields(scope_logs, [1, 3]);
        let bytes = if let Some(Value::Bytes(scope)) = scope { scope } else { &[] };
        let mut hash = Context::new(&SHA256);
        hash.update(&resource.digest);
        // Includes the length, so that no two sequences hash the same input.
        hash.update(&(bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
        this.digest = hash.finish().as_ref().try_into().unwrap_or_default();
        if let Some(Value::Bytes(scope)) = scope {
            let (mut own, mut attributes) = (Vec::new(), Vec::new());
            let [name, version] = fields(scope, [1, 2]);
            put_text(&mut own, "name", name, &mut this.values);
            put_text(&mut own, "version", version, &mut this.values);
            this.values.members(&mut attributes, scope, 3);
            if !attributes.is_empty() {
                struct_members::put_object(&mut own, "attributes", &attributes);
            }
            if !own.is_empty() {
                struct_members::put_object(&mut this.members, "scope", &own);
            }
        }
        put_text(&mut this.members, "schema_url", schema_url, &mut this.values);
        this
    }

    /// Bytes that every one of its records repeats.
    pub(super) fn bytes_len(&self) -> usize {
        self.members.len()
    }
}

/// The fields of a record.
#[derive(Debug, Default)]
struct Record<'a> {
    time_ns: u64,
    observed_ns: u64,
    name: Option<&'a str>,
    uid: Option<&'a str>,
    known: KnownIds<'a>,
    properties: Vec<u8>,
    values: Values,
}

impl<'a> Record<'a> {
    fn of(record: &'a [u8]) -> Self {
        let mut this = Self::default();
        let mut attributes = Vec::new();
        this.values.members(&mut attributes, record, 6);
        let (mut field_name, mut attribute_name) = (None, None);
        for_each(record, 6, |pair| {
            match pair_of(pair) {
                Ok(("event.name", value)) => attribute_name = text_of(value),
                Ok(("log.record.uid", value)) => this.uid = text_of(value).filter(|uid| is_id(uid)),
                Ok((key, value)) => this.known.set(key, text_of(value)),
                Err(_) => {}
            }
            true
        });
        let Self { properties: out, values, time_ns, observed_ns, .. } = &mut this;
        if !attributes.is_empty() {
            struct_members::put_object(out, "attributes", &attributes);
        }
        let [time, observed, severity, severity_text, body, dropped, flags, trace, span, name] =
            fields(record, [1, 11, 2, 3, 5, 7, 8, 9, 10, 12]);
        if let Some(Value::Bytes(body)) = body {
            values.member(out, "body", body);
        }
        if let Some(Value::Varint(number)) = severity {
            struct_members::put_float(out, "severity_number", f64::from(number as i32));
        }
        put_text(out, "severity_text", severity_text, values);
        for (key, id) in [("trace_id", trace), ("span_id", span)] {
            if let Some(Value::Bytes(id @ [_, ..])) = id {
                struct_members::put_text(out, key, &HEXLOWER.encode(id));
            }
        }
        if let Some(Value::Fixed32(flags @ 1..)) = flags {
            struct_members::put_float(out, "flags", f64::from(flags));
        }
        if let Some(Value::Varint(count @ 1..)) = dropped {
            struct_members::put_float(out, "dropped_attributes_count", f64::from(count as u32));
        }
        for (key, field, time) in
            [("time_unix_nano", time, time_ns), ("observed_time_unix_nano", observed, observed_ns)]
        {
            if let Some(Value::Fixed64(nanoseconds @ 1..)) = field {
                *time = nanoseconds;
                struct_members::put_text(out, key, &nanoseconds.to_string());
            }
        }
        if let Some(Value::Bytes(name)) = name {
            match std::str::from_utf8(name) {
                Ok(name) if is_id(name) => field_name = Some(name).filter(|name| !name.is_empty()),
                // Not a valid event name.
                Ok(name) => struct_members::put_text(out, "event_name", name),
                Err(_) => values.note(NOT_UTF8),
            }
        }
        this.name = field_name.or(attribute_name.filter(|name| is_id(name)));
        this
    }
}

/// Converts and validates a record.
pub(super) fn add(
    accepted: &mut Accepted,
    bytes: &[u8],
    resource: &Resource<'_>,
    scope: &Scope,
    seen: &mut SeenRecords,
    arrival: &Arrival<'_>,
) {
    let record = Record::of(bytes);
    for (values, part) in [(&record.values, ""), (&resource.values, "/resource"), (&scope.values, "/scope")] {
        if let Some(fault) = values.fault {
            return accepted.add_refused(vec![FieldError::new(part, fault)]);
        }
    }
    let key = match record.uid {
        Some(uid) => uid.to_owned(),
        // Without a time, two equal records may well be distinct.
        None if record.time_ns == 0 && record.observed_ns == 0 => String::new(),
        None => idempotency_key(bytes, scope, seen),
    };
    let event = encode(&record, resource, scope, &key, arrival);
    accepted.add_encoded(&event, Unchecked::All, arrival, rename);
}

fn encode(record: &Record<'_>, resource: &Resource<'_>, scope: &Scope, key: &str, arrival: &Arrival<'_>) -> Vec<u8> {
    let app = if arrival.key_app.is_none() { resource.app() } else { None };
    let device = record.known.device_id.or(resource.known.device_id).or(resource.instance);
    let device = device.or(resource.service.filter(|name| is_id(name))).or(Some(NO_SERVICE));
    let mut out = Vec::with_capacity(record.properties.len() + resource.members.len() + scope.members.len() + 512);
    for (number, text) in [
        (2, app.as_deref()),
        (3, device),
        (7, Some(key)),
        (8, record.known.user_id.or(resource.known.user_id)),
        (9, record.known.session_id.or(resource.known.session_id)),
    ] {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            put_bytes(&mut out, number, text.as_bytes());
        }
    }
    let time = if record.time_ns != 0 { record.time_ns } else { record.observed_ns };
    if time >= NANOS_IN_MILLI {
        put_number(&mut out, 4, time / NANOS_IN_MILLI);
    }
    if !resource.device.is_empty() {
        put_bytes(&mut out, 6, &resource.device);
    }
    let mut payload = Vec::with_capacity(out.capacity());
    put_bytes(&mut payload, 1, record.name.unwrap_or(LOG).as_bytes());
    let properties = [&*record.properties, &resource.members, &scope.members].concat();
    put_bytes(&mut payload, 6, &properties);
    put_bytes(&mut out, CUSTOM_EVENT, &payload);
    out
}

/// The same key for the same record of the same request, however often it is sent. Equal records within one request get
/// different keys.
fn idempotency_key(record: &[u8], scope: &Scope, seen: &mut SeenRecords) -> String {
    let mut hash = Context::new(&SHA256);
    hash.update(&scope.digest);
    hash.update(record);
    let digest = hash.finish();
    let fingerprint: Fingerprint = digest.as_ref().first_chunk().copied().unwrap_or_default();
    let before = seen.count(fingerprint);
    let mut key = format!("otlp:{}", HEXLOWER.encode(&fingerprint));
    if before > 0 {
        // Writing to a string does not fail.
        let _ = write!(key, "-{before}");
    }
    key
}

/// Appends a text field unless it is empty.
fn put_text(out: &mut Vec<u8>, key: &str, field: Option<Value<'_>>, values: &mut Values) {
    let Some(Value::Bytes(text @ [_, ..])) = field else { return };
    match std::str::from_utf8(text) {
        Ok(text) => struct_members::put_text(out, key, text),
        Err(_) => values.note(NOT_UTF8),
    }
}

/// Translates the pointer of an error to the record.
fn rename(error: &mut FieldError) {
    error.rename(&[
        ("/customEvent/eventName", "/eventName"),
        ("/customEvent/properties", ""),
        ("/deviceContext", "/resource"),
        ("/timestampMs", "/timeUnixNano"),
        ("/appId", "/resource/service.name"),
        ("/deviceId", "/resource/device.id"),
        ("/userId", "/attributes/user.id"),
        ("/sessionId", "/attributes/session.id"),
        ("/idempotencyKey", "/attributes/log.record.uid"),
    ]);
}
