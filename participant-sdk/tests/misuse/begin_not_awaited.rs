#![deny(unused_must_use)]

fn pay(client: &unanimous_sdk::Client) {
    client.begin("pay");
}

fn main() {}
