"""Reasoning in signatures: only its owner and its model get it back."""

from one_api.dialects.anthropic.inbound.carrier import Carrier


def test_a_signature_is_opened_for_its_owner_and_model_only() -> None:
    carrier = Carrier(b"a", "m")
    signature = carrier.seal("Hm.")

    assert signature == Carrier(b"a", "m").seal("Hm.")
    assert carrier.open(signature) == "Hm."
    assert Carrier(b"b", "m").open(signature) is None
    assert Carrier(b"a", "other").open(signature) is None


def test_other_signatures_are_none_of_ours() -> None:
    assert [Carrier(b"a", "m").open(each) for each in ("", "EqQBCkYI", "gw1.", "gw1.AAAA")] == [None] * 4
