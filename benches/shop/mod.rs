//! Events of a shop's app, the same in every run.

use std::collections::HashMap;

use causality::event::proto::event_envelope::Payload;
use causality::event::proto::*;
use uuid::Uuid;

const DEVICES: u64 = 20_000;

pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn pick(&mut self, of: &[&str]) -> String {
        of[(self.next() % of.len() as u64) as usize].to_owned()
    }

    fn id(&mut self) -> String {
        Uuid::from_u64_pair(self.next(), self.next()).to_string()
    }
}

/// The event of this number; its random parts come from `random`.
pub(crate) fn event(n: u64, random: &mut Random) -> EventEnvelope {
    let time = 1_767_225_600_000 + n / 100;
    let device = Random(random.next() % DEVICES).next();
    EventEnvelope {
        id: Uuid::from_u64_pair(time << 16 | 0x7000 | random.next() & 0xfff, random.next()).to_string(),
        app_id: "shop".into(),
        device_id: Random(device).id(),
        timestamp_ms: time as i64 - (random.next() % 5_000) as i64,
        correlation_id: if n.is_multiple_of(4) { random.id() } else { String::new() },
        device_context: (!n.is_multiple_of(20)).then(|| device_context(&mut Random(device))),
        idempotency_key: if n.is_multiple_of(2) { format!("key-{n}") } else { String::new() },
        user_id: if n.is_multiple_of(3) { format!("user-{}", device % 100_000) } else { String::new() },
        session_id: String::new(),
        payload: Some(payload(n, random)),
    }
}

fn device_context(random: &mut Random) -> DeviceContext {
    let (width, height) = [(1170, 2532), (1080, 2400), (1440, 3200), (1284, 2778)][(random.next() % 4) as usize];
    DeviceContext {
        platform: 1 + (random.next() % 3) as i32,
        os_version: format!("{}.{}", 13 + random.next() % 5, random.next() % 7),
        app_version: format!("4.{}.0", random.next() % 20),
        build_number: (4_000 + random.next() % 40).to_string(),
        device_model: random.pick(&["iPhone15,2", "Pixel 8", "SM-S918B", "iPad14,1", "Redmi Note 12"]),
        manufacturer: random.pick(&["Apple", "Google", "Samsung", "Xiaomi"]),
        screen_width: width,
        screen_height: height,
        locale: random.pick(&["en_US", "de_DE", "fr_FR", "ja_JP", "pt_BR"]),
        timezone: random.pick(&["Europe/Berlin", "America/New_York", "Asia/Tokyo", "UTC"]),
        network_type: 1 + (random.next() % 5) as i32,
        carrier: random.pick(&["Verizon", "T-Mobile", "Vodafone", "NTT docomo", ""]),
        is_jailbroken: random.next().is_multiple_of(100),
        is_emulator: random.next().is_multiple_of(50),
        sdk_version: "2.3.1".into(),
    }
}

fn payload(n: u64, random: &mut Random) -> Payload {
    let screen = random.pick(&["HomeScreen", "SearchResults", "ProductDetail", "ShoppingCart", "CheckoutPayment"]);
    let product = format!("sku-{}", random.next() % 5_000);
    match n % 10 {
        0 | 1 => Payload::ScreenView(ScreenView {
            screen_name: screen,
            screen_class: "ShopViewController".into(),
            previous_screen: "HomeScreen".into(),
            params: HashMap::from([("ref".to_owned(), "push".to_owned())]).into_iter().collect(),
            properties: None,
        }),
        2 => Payload::ScreenExit(ScreenExit {
            screen_name: screen,
            duration_ms: (random.next() % 60_000) as i64,
            next_screen: "ProductDetail".into(),
            properties: None,
        }),
        3 | 4 => Payload::ButtonTap(ButtonTap {
            button_id: "add_to_cart".into(),
            button_text: "Add to cart".into(),
            screen_name: screen,
            coordinates: Some(Coordinates { x: (random.next() % 1_000) as f32 / 2.0, y: 310.25 }),
            properties: None,
        }),
        5 | 6 => Payload::ProductView(ProductView {
            product_id: product,
            product_name: "Trail Running Shoe 4".into(),
            category: "footwear".into(),
            price_cents: (random.next() % 20_000) as i64,
            currency: "EUR".into(),
            source: "search".into(),
            properties: None,
        }),
        7 => Payload::PurchaseComplete(PurchaseComplete {
            order_id: random.id(),
            cart_id: random.id(),
            item_count: 2,
            total_cents: (random.next() % 50_000) as i64,
            currency: "EUR".into(),
            payment_method: "credit_card".into(),
            items: (0..2)
                .map(|_| PurchaseItem {
                    product_id: product.clone(),
                    product_name: "Merino Base Layer".into(),
                    quantity: 1,
                    price_cents: 7_450,
                })
                .collect(),
            properties: None,
        }),
        8 => Payload::AppStart(AppStart {
            is_cold_start: true,
            launch_duration_ms: (random.next() % 2_000) as i64,
            launch_source: "icon".into(),
            deeplink_url: String::new(),
            properties: None,
        }),
        _ => Payload::CustomEvent(CustomEvent {
            event_name: "wishlist_shared".into(),
            string_params: HashMap::from([("channel".to_owned(), "mail".to_owned())]).into_iter().collect(),
            int_params: HashMap::from([("items".to_owned(), (random.next() % 9) as i64)]).into_iter().collect(),
            ..Default::default()
        }),
    }
}
