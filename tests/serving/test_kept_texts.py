"""What processes of one master keep in common of the configuration."""

import os

from one_api.serving.kept_texts import KeptTexts


def test_a_process_without_a_master_of_ours_keeps_nothing() -> None:
    kept = KeptTexts()

    kept.apply({"f": "start"}, {"f": "new"})

    assert kept.read() is None


def test_what_a_forked_process_applies_is_read_by_others() -> None:
    kept = KeptTexts()
    kept.begin({"f": "start", "gone": None})
    if (child := os.fork()) == 0:
        kept.apply({"f": "start", "gone": None}, {"f": "new" * 100_000})
        kept.request_reload()
        os._exit(0)
    os.waitpid(child, 0)

    assert kept.read() == ({"f": "start", "gone": None}, {"f": "new" * 100_000})
    assert kept.reload_requests == 1


def test_half_a_text_is_none_and_the_next_one_is_read() -> None:
    file = os.dup(0)
    os.close(file)
    kept = KeptTexts()  # its file gets the lowest number that is free
    kept.begin({"f": "start"})
    os.pwrite(file, b"garbage", 60)

    assert kept.read() is None
    kept.apply({"f": "start"}, {"f": "new"})
    assert kept.read() == ({"f": "start"}, {"f": "new"})
