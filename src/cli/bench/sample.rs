//! Events like those of a shop's app: all kinds, in realistic proportions.
//!
//! Invariant: the same generator state always makes the same event, and the gateway accepts it.

use std::collections::BTreeMap;

use pbjson_types::{Struct, Value as AnyValue, value};

use super::random::SplitMix64;
use crate::event::proto::event_envelope::Payload;
use crate::event::proto::*;

/// Payload field numbers and their weights: mostly views and taps, few crashes.
const SHARES: [(u32, u64); 29] = [
    (10, 14),
    (11, 8),
    (12, 5),
    (13, 5),
    (100, 160),
    (101, 120),
    (200, 140),
    (201, 40),
    (202, 80),
    (203, 30),
    (204, 8),
    (205, 8),
    (300, 90),
    (301, 35),
    (302, 12),
    (303, 15),
    (304, 25),
    (305, 12),
    (306, 5),
    (400, 30),
    (401, 25),
    (402, 25),
    (403, 4),
    (404, 15),
    (405, 8),
    (406, 8),
    (407, 6),
    (408, 12),
    (900, 55),
];

const SCREENS: [&str; 10] = [
    "HomeScreen",
    "SearchResults",
    "ProductDetail",
    "CategoryList",
    "ShoppingCart",
    "CheckoutShipping",
    "CheckoutPayment",
    "OrderHistory",
    "UserProfile",
    "NotificationSettings",
];
const PRODUCTS: [(&str, &str, i64); 8] = [
    ("Trail Running Shoe 4", "footwear", 12_990),
    ("Merino Base Layer", "apparel", 7_450),
    ("Insulated Bottle 750 ml", "accessories", 2_995),
    ("Carbon Trekking Poles", "equipment", 10_900),
    ("Down Jacket Light", "apparel", 24_900),
    ("Headlamp 600 Lumen", "equipment", 5_990),
    ("Café Travel Mug", "accessories", 1_890),
    ("Climbing Rope 9.8 mm × 60 m", "equipment", 17_500),
];
const CURRENCIES: [&str; 4] = ["USD", "EUR", "GBP", "JPY"];
const METHODS: [&str; 5] = ["email", "google", "apple", "facebook", "passkey"];
const PAYMENTS: [&str; 4] = ["credit_card", "apple_pay", "google_pay", "paypal"];
const PERMISSIONS: [&str; 4] = ["location_when_in_use", "push_notifications", "camera", "photo_library"];

/// The kinds of `count` events in random order: every kind at least once if `count` allows.
pub(super) fn kinds(count: usize, random: &mut SplitMix64) -> Vec<u32> {
    let sum: u64 = SHARES.iter().map(|(_, share)| share).sum();
    let mut kinds: Vec<u32> = SHARES.iter().map(|(number, _)| *number).take(count).collect();
    while kinds.len() < count {
        let mut point = random.below(sum);
        let chosen = SHARES.iter().find(|(_, share)| {
            let hit = point < *share;
            point = point.wrapping_sub(*share);
            hit
        });
        kinds.extend(chosen.map(|(number, _)| *number));
    }
    for last in (1..kinds.len()).rev() {
        kinds.swap(last, random.below(last as u64 + 1) as usize);
    }
    kinds
}

/// An event without id, time and key, which are patched into its rendered form.
pub(super) fn event(kind: u32, app_id: &str, random: &mut SplitMix64) -> EventEnvelope {
    let user = format!("user_{}", random.hex(12));
    EventEnvelope {
        app_id: app_id.to_owned(),
        device_id: format!("{}-{}-{}", random.hex(8), random.hex(4), random.hex(20)),
        correlation_id: format!("req-{}", random.hex(32)),
        device_context: Some(device(random)),
        session_id: format!("sess_{}", random.hex(16)),
        payload: Some(payload(kind, &user, random)),
        user_id: user,
        ..EventEnvelope::default()
    }
}

fn device(random: &mut SplitMix64) -> DeviceContext {
    let (platform, os_version, model, maker, width, height) = random.pick(&[
        (Platform::Ios, "17.4.1", "iPhone15,3", "Apple", 1290, 2796),
        (Platform::Ios, "16.7.8", "iPhone12,1", "Apple", 828, 1792),
        (Platform::Android, "14", "Pixel 8 Pro", "Google", 1344, 2992),
        (Platform::Android, "13", "SM-S918B", "Samsung", 1440, 3088),
        (Platform::Android, "12", "M2101K6G", "Xiaomi", 1080, 2400),
        (Platform::Web, "macOS 14.4", "Chrome 124", "Google", 1728, 1117),
    ]);
    let (locale, timezone, carrier) = random.pick(&[
        ("en_US", "America/New_York", "Verizon"),
        ("de_DE", "Europe/Berlin", "Telekom.de"),
        ("en_GB", "Europe/London", "Vodafone UK"),
        ("ja_JP", "Asia/Tokyo", "NTT DOCOMO"),
        ("pt_BR", "America/Sao_Paulo", "Claro BR"),
    ]);
    let (app_version, build_number) = random.pick(&[("5.12.0", "51200"), ("5.11.3", "51103"), ("5.9.1", "50901")]);
    let network = random.pick(&[
        NetworkType::Wifi,
        NetworkType::Wifi,
        NetworkType::Cellular4g,
        NetworkType::Cellular5g,
        NetworkType::Cellular3g,
    ]);
    DeviceContext {
        platform: platform as i32,
        os_version: os_version.into(),
        app_version: app_version.into(),
        build_number: build_number.into(),
        device_model: model.into(),
        manufacturer: maker.into(),
        screen_width: width,
        screen_height: height,
        locale: locale.into(),
        timezone: timezone.into(),
        network_type: network as i32,
        carrier: carrier.into(),
        is_jailbroken: random.chance(2),
        is_emulator: random.chance(1),
        sdk_version: "3.4.2".into(),
    }
}

fn payload(kind: u32, user: &str, random: &mut SplitMix64) -> Payload {
    match kind {
        10..=99 => user_payload(kind, user, random),
        100..=199 => screen_payload(kind, random),
        200..=299 => interaction_payload(kind, random),
        300..=399 => commerce_payload(kind, random),
        400..=499 => system_payload(kind, random),
        _ => Payload::CustomEvent(custom(random)),
    }
}

fn user_payload(kind: u32, user: &str, random: &mut SplitMix64) -> Payload {
    let user_id = user.to_owned();
    let method = random.pick(&METHODS).to_owned();
    match kind {
        10 => Payload::UserLogin(UserLogin { user_id, method, is_new_user: random.chance(10), properties: None }),
        11 => Payload::UserLogout(UserLogout {
            user_id,
            reason: random.pick(&["user_initiated", "expired"]).into(),
            properties: None,
        }),
        12 => {
            let referral_source = random.pick(&["organic", "instagram_ad", "friend_invite"]).into();
            Payload::UserSignup(UserSignup { user_id, method, referral_source, properties: None })
        }
        _ => {
            let fields_updated = vec!["display_name".into(), random.pick(&["avatar", "email", "address"]).into()];
            Payload::UserProfileUpdate(UserProfileUpdate { user_id, fields_updated, properties: None })
        }
    }
}

fn screen_payload(kind: u32, random: &mut SplitMix64) -> Payload {
    let screen_name = random.pick(&SCREENS).to_owned();
    match kind {
        100 => Payload::ScreenView(ScreenView {
            screen_class: format!("{screen_name}ViewController"),
            previous_screen: random.pick(&SCREENS).into(),
            params: BTreeMap::from([
                ("source".into(), random.pick(&["push", "tab_bar", "deeplink", "search"]).into()),
                ("experiment".into(), format!("layout_{}", random.pick(&["a", "b", "control"]))),
            ]),
            screen_name,
            properties: None,
        }),
        _ => Payload::ScreenExit(ScreenExit {
            screen_name,
            duration_ms: random.int64(300, 180_000),
            next_screen: random.pick(&SCREENS).into(),
            properties: None,
        }),
    }
}

fn point(random: &mut SplitMix64) -> Option<Coordinates> {
    let mut axis = |end| random.int32(0, end) as f32 + random.pick(&[0.0, 0.25, 0.5, 0.75]);
    Some(Coordinates { x: axis(1_200), y: axis(2_700) })
}

fn interaction_payload(kind: u32, random: &mut SplitMix64) -> Payload {
    let screen_name = random.pick(&SCREENS).to_owned();
    match kind {
        200 => Payload::ButtonTap(ButtonTap {
            button_id: format!("btn_{}", random.pick(&["add_to_cart", "checkout", "filter", "share", "favourite"])),
            button_text: random.pick(&["Add to cart", "Continue", "Filter", "ServerRun", "Zur Kasse"]).into(),
            screen_name,
            coordinates: point(random),
            properties: None,
        }),
        201 => Payload::SwipeGesture(SwipeGesture {
            direction: random.int32(1, 4),
            screen_name,
            start: point(random),
            end: point(random),
            duration_ms: random.int64(60, 900),
            properties: None,
        }),
        202 => Payload::ScrollEvent(ScrollEvent {
            screen_name,
            container_id: "product_grid_main".into(),
            scroll_depth_percent: random.int32(0, 100),
            direction: random.int32(1, 2),
            properties: None,
        }),
        203 => Payload::TextInput(TextInput {
            field_id: random.pick(&["search_query", "email", "promo_code"]).into(),
            field_type: "text".into(),
            screen_name,
            text_length: random.int32(0, 60),
            input_duration_ms: random.int64(400, 30_000),
            properties: None,
        }),
        204 => Payload::LongPress(LongPress {
            element_id: format!("product_card_{}", random.below(500)),
            screen_name,
            coordinates: point(random),
            duration_ms: random.int64(500, 2_500),
            properties: None,
        }),
        _ => Payload::DoubleTap(DoubleTap {
            element_id: format!("product_image_{}", random.below(500)),
            screen_name,
            coordinates: point(random),
            properties: None,
        }),
    }
}

fn commerce_payload(kind: u32, random: &mut SplitMix64) -> Payload {
    let (name, category, price_cents) = random.pick(&PRODUCTS);
    let product_id = format!("SKU-{:06}", random.below(20_000));
    let product_name = name.to_owned();
    let cart_id = format!("cart_{}", random.hex(12));
    let currency = random.pick(&CURRENCIES).to_owned();
    let payment_method = random.pick(&PAYMENTS).to_owned();
    let quantity = random.int32(1, 4);
    let total_cents = price_cents * i64::from(quantity);
    match kind {
        300 => Payload::ProductView(ProductView {
            product_id,
            product_name,
            category: category.into(),
            price_cents,
            currency,
            source: random.pick(&["search", "recommendation", "category_page"]).into(),
            properties: None,
        }),
        301 => Payload::AddToCart(AddToCart {
            product_id,
            product_name,
            quantity,
            price_cents,
            currency,
            cart_id,
            properties: None,
        }),
        302 => {
            let reason = random.pick(&["changed_mind", "too_expensive", "shipping_cost"]).into();
            Payload::RemoveFromCart(RemoveFromCart { product_id, quantity, cart_id, reason, properties: None })
        }
        303 => Payload::CheckoutStart(CheckoutStart {
            cart_id,
            item_count: quantity,
            total_cents,
            currency,
            properties: None,
        }),
        304 => Payload::CheckoutStep(CheckoutStep {
            cart_id,
            step_number: random.int32(1, 4),
            step_name: random.pick(&["shipping_address", "shipping_method", "payment", "review"]).into(),
            step_duration_ms: random.int64(2_000, 90_000),
            properties: None,
        }),
        305 => Payload::PurchaseComplete(PurchaseComplete {
            order_id: format!("ORD-{}", random.hex(10)),
            cart_id,
            item_count: quantity,
            total_cents,
            currency,
            payment_method,
            items: vec![PurchaseItem { product_id, product_name, quantity, price_cents }],
            properties: None,
        }),
        _ => Payload::PurchaseFailed(PurchaseFailed {
            cart_id,
            error_code: random.pick(&["card_declined", "insufficient_funds", "timeout"]).into(),
            error_message: "The payment provider refused the transaction".into(),
            payment_method,
            checkout_step: 3,
            properties: None,
        }),
    }
}

fn system_payload(kind: u32, random: &mut SplitMix64) -> Payload {
    let screen: String = random.pick(&SCREENS).into();
    let permission_type: String = random.pick(&PERMISSIONS).into();
    match kind {
        400 => Payload::AppStart(AppStart {
            is_cold_start: random.chance(60),
            launch_duration_ms: random.int64(180, 3_500),
            launch_source: random.pick(&["icon", "push_notification", "deeplink"]).into(),
            deeplink_url: format!("shop://product/SKU-{:06}", random.below(20_000)),
            properties: None,
        }),
        401 => Payload::AppBackground(AppBackground {
            foreground_duration_ms: random.int64(1_000, 900_000),
            current_screen: screen,
            properties: None,
        }),
        402 => Payload::AppForeground(AppForeground {
            background_duration_ms: random.int64(1_000, 7_200_000),
            resume_screen: screen,
            properties: None,
        }),
        403 => Payload::AppCrash(AppCrash {
            crash_type: "NSInvalidArgumentException".into(),
            crash_message: "unrecognized selector sent to instance".into(),
            stack_trace: "0 CoreFoundation 0x18a __exceptionPreprocess\n1 libobjc 0x18b objc_exception_throw\n\
                          2 Shop 0x104 -[CartView refresh:]\n3 UIKitCore 0x18d -[UIView layoutSubviews]"
                .into(),
            current_screen: screen,
            properties: None,
        }),
        404 => Payload::NetworkChange(NetworkChange {
            previous_type: random.int32(1, 6),
            current_type: random.int32(1, 7),
            properties: None,
        }),
        405 => {
            Payload::PermissionRequest(PermissionRequest { permission_type, trigger_screen: screen, properties: None })
        }
        406 => Payload::PermissionResult(PermissionResult {
            permission_type,
            status: random.int32(1, 3),
            properties: None,
        }),
        407 => Payload::MemoryWarning(MemoryWarning {
            available_memory_bytes: random.int64(20, 400) << 20,
            used_memory_bytes: random.int64(600, 3_000) << 20,
            level: random.int32(1, 2),
            properties: None,
        }),
        _ => Payload::BatteryChange(BatteryChange {
            battery_level: random.int32(0, 100),
            state: random.int32(1, 3),
            properties: None,
        }),
    }
}

fn custom(random: &mut SplitMix64) -> CustomEvent {
    let names = ["video_played", "wishlist_shared", "coupon_applied", "store_locator_opened", "review_written"];
    // One member per level: the map of a Struct has no defined order.
    let object = |name: &str, inner| Struct { fields: [(name.to_owned(), AnyValue { kind: Some(inner) })].into() };
    let nested = random.chance(30).then(|| {
        let variant = value::Kind::StringValue(random.pick(&["a", "b"]).to_owned());
        object("placement", value::Kind::StructValue(object("variant", variant)))
    });
    CustomEvent {
        event_name: random.pick(&names).into(),
        string_params: BTreeMap::from([("campaign".into(), format!("spring_{}", random.below(12)))]),
        int_params: BTreeMap::from([("position".into(), random.int64(0, 40))]),
        float_params: BTreeMap::from([("progress".into(), random.below(100) as f64 / 100.0)]),
        bool_params: BTreeMap::from([("is_member".into(), random.chance(50))]),
        properties: nested,
    }
}
