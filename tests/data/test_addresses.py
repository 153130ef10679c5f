"""Keys: equal for equal addresses, different for all others."""

from __future__ import annotations

from itertools import product

from resumable.data.addresses import PassAddress, batch_key, key_of, loop_key, pass_key


def test_no_two_addresses_share_a_key() -> None:
    addresses = [PassAddress(*parts) for parts in product(("a", "ab", "b"), range(4), range(4), range(3))]
    keys = {pass_key(seed, address) for seed in range(3) for address in addresses}
    keys |= {batch_key(seed, address, batch) for seed in range(3) for address in addresses for batch in range(4)}
    keys |= {loop_key(seed, name) for seed in range(3) for name in ("a", "ab", "b")}
    assert len(keys) == 3 * len(addresses) * 5 + 9


def test_parts_cannot_be_shifted_into_one_another() -> None:
    assert key_of("ab", "c") != key_of("a", "bc")
    assert key_of(1, 23) != key_of(12, 3)
    assert key_of("1") != key_of(1) != key_of(b"1")


def test_keys_are_what_they_were_in_the_first_release() -> None:
    address = PassAddress("batches", 1, 2, 3)
    assert pass_key(7, address).hex() == "10b049b52d261443dc4beb30e6b4f358"
    assert batch_key(7, address, 4).hex() == "ff6501f7eb15109f084b04a3a108a59e"
