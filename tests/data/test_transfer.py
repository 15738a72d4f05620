from decimal import Decimal

import torch

from tuition.data import Accounts, Bill, Crop, TransferSet, from_tensors


def test_accounts_add_up():
    total = Accounts(paid=3, served=2, failed=1, unknown=1) + Accounts(paid=4, served=5)
    assert total == Accounts(paid=7, served=7, failed=1, unknown=1)
    assert total.as_dict() == {"paid": 7, "served": 7, "failed": 1, "unknown": 1}
    assert sum([Accounts(paid=1), Accounts(paid=2)], Accounts()) == Accounts(paid=3)


def test_what_a_person_reads():
    accounts = Accounts(paid=1200, served=2, failed=1, unknown=3)
    assert (
        repr(accounts)
        == "Accounts: 1,200 paid, 2 from cache, 1 failed\n  3 of the paid were in flight when interrupted"
    )
    assert repr(Bill(Decimal("0.10"), 1000, 5, 1)) == (
        "Bill: 0.10\n  1,000 input and 5 output tokens, counted for 1 call"
    )
    logits = torch.eye(3)[[0, 1, 1, 2]]
    transfer = TransferSet(
        from_tensors(list("abcd"), [0, 1, 2, 2], name="letters"), {"logits": logits}, "t", "", accounts
    )
    assert repr(transfer) == (
        "TransferSet 'letters': 4 inputs, answered by 't' with logits (4, 3)\n  3 classes: 0, 1, 2; "
        "the teacher agrees with 75.0 % of the labels; 1,200 paid, 2 from cache, 1 failed"
    )
    assert "<strong>TransferSet" in transfer._repr_html_()


def test_rows_of_a_transfer_set_stay_together():
    pool = from_tensors(torch.randint(0, 256, (6, 3, 8, 8)).byte(), [0, 1, 2, 0, 1, 2]).view(Crop(), seed=0)
    numbers = torch.arange(6).float()
    transfer = TransferSet(pool, {"logits": numbers[:, None].expand(6, 3), "embedding": numbers[:, None]}, teacher="t")
    for index in ([4, 1, 1], slice(2, 5), torch.tensor([True, False, True, False, False, True])):
        part = transfer[index]
        rows = torch.arange(6)[index].tolist()
        assert part.responses["embedding"].flatten().tolist() == rows
        assert part.responses["logits"].shape == (3, 3)
        assert part.pool.digests == [pool.digests[row] for row in rows]
        assert part.labels.tolist() == pool.labels[rows].tolist()
        assert torch.equal(part.inputs, pool.inputs[rows])
        assert len(part) == 3
        assert part.teacher == "t"
