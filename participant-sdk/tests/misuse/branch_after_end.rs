fn work(branch: unanimous_sdk::Branch) {
    branch.end();
    branch.fail("no seats");
}

fn main() {}
