//! Orders per customer: the sample of the README.

use tidemill_sdk::prelude::*;

#[derive(Row)]
struct Order<'a> {
    customer: &'a str,
}

#[derive(Row, Debug, PartialEq)]
struct Total<'a> {
    customer: &'a str,
    orders: i64,
}

/// Counts the orders of each customer.
#[derive(Keyed)]
struct CountOrders {
    orders: Value<i64>,
}

impl KeyedOperator for CountOrders {
    type In<'a> = Order<'a>;
    type Out<'a> = Total<'a>;

    fn process(&mut self, order: Order<'_>, ctx: &mut Context<Self>) -> Result<()> {
        let orders = self.orders.get_or_default() + 1;
        self.orders.set(orders);
        ctx.emit(Total { customer: order.customer, orders });
        Ok(())
    }
}

tidemill_sdk::export!(CountOrders);

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_sdk::testing::TestDriver;

    #[test]
    fn counts_per_customer() {
        let mut driver = TestDriver::<CountOrders>::new().key(["customer"]).open().unwrap();
        for customer in ["ada", "bob", "ada"] {
            driver.push(Order { customer });
        }
        let total = |customer, orders| Total { customer, orders };
        assert_eq!(driver.rows(), [total("ada", 1), total("bob", 1), total("ada", 2)]);
        assert_eq!(driver.state::<i64>("orders", "ada"), Some(2));
    }
}
