//! Sends orders to the topic of their part of the world, by the `country` in their JSON value. What is not an order (no JSON, no
//! country, nothing ordered) is dropped with a line in the log.

use serde::Deserialize;
use tidemill_sdk::{Output, Record, Result, log};

/// What is read of an order; the record itself is handed on as it came.
#[derive(Deserialize)]
struct Order<'a> {
    id: u64,
    #[serde(borrow)]
    country: std::borrow::Cow<'a, str>,
    quantity: u32,
}

/// Routes one order.
#[tidemill_sdk::transform]
pub fn route_by_country(record: Record<'_>, output: &mut Output) -> Result<()> {
    let order = match serde_json::from_slice::<Order<'_>>(record.value().unwrap_or_default()) {
        Ok(order) if order.quantity > 0 => order,
        Ok(order) => {
            log::warn!(
                "dropped offset {}: order {} orders nothing",
                record.offset(),
                order.id
            );
            return Ok(());
        }
        Err(reason) => {
            log::warn!("dropped offset {}: {reason}", record.offset());
            return Ok(());
        }
    };
    output.to(topic_of(&order.country))?.forward(&record)
}

fn topic_of(country: &str) -> &'static str {
    match country {
        "AT" | "BE" | "BG" | "CY" | "CZ" | "DE" | "DK" | "EE" | "ES" | "FI" | "FR" | "GR"
        | "HR" | "HU" | "IE" | "IT" | "LT" | "LU" | "LV" | "MT" | "NL" | "PL" | "PT" | "RO"
        | "SE" | "SI" | "SK" => "orders-eu",
        "US" => "orders-us",
        _ => "orders-other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_sdk::testing::{Ran, TestRecord, run_with_outputs};

    fn route(values: &[&str]) -> Ran {
        let records = values.iter().map(|v| TestRecord::new().key("k").value(v));
        run_with_outputs(
            route_by_country,
            &["orders-eu", "orders-us", "orders-other"],
            records,
        )
    }

    #[test]
    fn each_order_goes_to_its_topic_unchanged() {
        let orders = [
            r#"{"id":1,"country":"DE","quantity":1}"#,
            r#"{"id":2,"country":"US","quantity":2}"#,
            r#"{"id":3,"country":"JP","quantity":3}"#,
        ];
        let ran = route(&orders);
        for (topic, order) in ["orders-eu", "orders-us", "orders-other"]
            .iter()
            .zip(orders)
        {
            assert_eq!(ran.topic(topic), [TestRecord::new().key("k").value(order)]);
        }
    }

    #[test]
    fn what_is_no_order_is_dropped() {
        let ran = route(&[
            "hello",
            r#"{"id":1}"#,
            r#"{"id":2,"country":"DE","quantity":0}"#,
        ]);
        assert_eq!(ran.failures(), []);
        for topic in ["orders-eu", "orders-us", "orders-other"] {
            assert!(ran.topic(topic).is_empty());
        }
    }

    #[test]
    fn undeclared_topic_is_an_error_of_the_record() {
        let order = TestRecord::new().value(r#"{"id":1,"country":"US","quantity":1}"#);
        let ran = run_with_outputs(route_by_country, &["orders-eu"], [order]);
        assert!(ran.failures()[0].1.contains("orders-us"));
    }
}
