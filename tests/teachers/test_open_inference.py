"""The Open Inference Protocol V2, by its specification; tests/teachers/test_peers.py has a real server."""

import math

import pytest
import torch

from tuition import ResponseStore
from tuition.data import Accounts, from_tensors
from tuition.errors import UserError
from tuition.store import TeacherError
from tuition.teachers import BadAnswer, NotCharged, Tokens, from_v2

METADATA = {
    "name": "net",
    "versions": ["3"],
    "platform": "onnxruntime_onnx",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
}


@pytest.fixture
def model(server, reply):
    """A served model: y = (sum of x, first of x); tests change its metadata and its answers."""

    class Served:
        url = f"{server.url}/v2/models/net"
        requests = server.requests
        metadata = METADATA
        change = staticmethod(lambda answer: answer)

        def reply(self, request):
            if request.method == "GET":
                return reply(self.metadata)
            tensor = request.body["inputs"][0]
            count, *row = tensor["shape"]
            width = math.prod(row)
            rows = [tensor["data"][i * width : (i + 1) * width] for i in range(count)]
            if tensor["datatype"] == "BYTES":
                rows = [[len(row[0])] for row in rows]
            data = [value for row in rows for value in (sum(row), row[0])]
            y = {"name": "y", "datatype": "FP32", "shape": [count, 2], "data": data}
            return reply(self.change({"model_name": "net", "model_version": "3", "outputs": [y]}))

    served = Served()
    server.reply = served.reply
    return served


def test_vectors(model, tmp_path):
    inputs = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    teacher = from_v2(model.url)
    transfer = ResponseStore(str(tmp_path / "store.db")).ask(teacher, from_tensors(inputs), budget=7, batch_size=4)
    torch.testing.assert_close(transfer.responses["logits"], torch.stack([inputs.sum(1), inputs[:, 0]], 1))
    assert transfer.accounts == Accounts(paid=7)
    look, first, _ = model.requests
    assert (look.method, look.path) == ("GET", "/v2/models/net")
    assert (first.method, first.path) == ("POST", "/v2/models/net/infer")
    data = first.body["inputs"][0].pop("data")
    assert torch.equal(torch.tensor(data), inputs[:4].flatten())
    assert first.body == {"inputs": [{"name": "x", "shape": [4, 4], "datatype": "FP32"}], "outputs": [{"name": "y"}]}
    host = model.url.removesuffix("/v2/models/net")
    expected = f"v2 {host}; model net; version 3; input x; datatype FP32; output y; returns logits; scale 1/255"
    assert teacher.fingerprint == expected
    assert teacher.name.startswith("net-")


def test_a_version_of_its_own(model):
    teacher = from_v2(f"{model.url}/versions/3/")
    teacher(torch.zeros(1, 4))
    paths = [request.path for request in model.requests]
    assert paths == ["/v2/models/net/versions/3", "/v2/models/net/versions/3/infer"]
    assert "; version 3;" in teacher.fingerprint


def test_texts_travel_as_bytes(model):
    model.metadata = METADATA | {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [-1, 1]}]}
    answer = from_v2(model.url, returns="embedding")(["", "äöü"])
    assert torch.equal(answer["embedding"], torch.tensor([[0.0, 0.0], [3.0, 3.0]]))
    tensor = model.requests[-1].body["inputs"][0]
    assert tensor == {"name": "x", "shape": [2, 1], "datatype": "BYTES", "data": ["", "äöü"]}
    model.metadata = METADATA | {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [-1]}]}
    from_v2(model.url)(["a", "b"])
    assert model.requests[-1].body["inputs"][0]["shape"] == [2]


def test_images_as_the_model_takes_them(model):
    image = torch.arange(4, dtype=torch.uint8).view(1, 1, 2, 2) * 51
    for datatype, shape, sent in (
        ("UINT8", [-1, 1, 2, 2], [0, 51, 102, 153]),
        ("FP32", [-1, 1, 2, 2], [0, 0.2, 0.4, 0.6]),
        ("FP32", [-1, -1, 2, 2], [0, 0.2, 0.4, 0.6]),
        ("FP32", [-1, 4], [0, 0.2, 0.4, 0.6]),
    ):
        model.metadata = METADATA | {"inputs": [{"name": "x", "datatype": datatype, "shape": shape}]}
        from_v2(model.url)(image)
        tensor = model.requests[-1].body["inputs"][0]
        assert tensor["data"] == pytest.approx(sent)
        assert tensor["shape"] == ([1, 4] if len(shape) == 2 else [1, 1, 2, 2])
    scaled = from_v2(model.url, mean=[0.5], std=[0.1])
    scaled(image)
    assert model.requests[-1].body["inputs"][0]["data"] == pytest.approx([-5, -3, -1, 1], abs=1e-5)
    assert scaled.fingerprint != from_v2(model.url).fingerprint


def test_probabilities_become_logits(model):
    model.change = lambda answer: {"outputs": [answer["outputs"][0] | {"data": [0.75, 0.25, 1.0, 0.0]}]}
    answer = from_v2(model.url, returns="probabilities")(torch.zeros(2, 4))
    expected = torch.tensor([[0.75, 0.25], [1.0, 1e-9]]).log()
    torch.testing.assert_close(answer["logits"], expected)
    model.change = lambda answer: {"outputs": [answer["outputs"][0] | {"data": [0.75, 0.25, 3.0, 0.0]}]}
    with pytest.raises(BadAnswer, match="does this model return logits"):
        from_v2(model.url, returns="probabilities")(torch.zeros(2, 4))


def test_metadata_that_say_nothing(model):
    """MLServer's, where its settings do not declare tensors."""
    model.metadata = {"name": "net", "versions": [], "inputs": [], "outputs": []}
    teacher = from_v2(model.url)
    teacher(torch.zeros(2, 4))
    body = model.requests[-1].body
    assert (body["inputs"][0]["name"], body["inputs"][0]["datatype"], body.get("outputs")) == ("input-0", "FP32", None)
    from_v2(model.url, input="x", output="y")(torch.zeros(2, 4))
    assert model.requests[-1].body["outputs"] == [{"name": "y"}]


OUTPUT = {"name": "y", "datatype": "FP32", "shape": [2, 2], "data": [1.0, 2.0, 3.0, 4.0]}
MALFORMED = {
    "no outputs": {},
    "none": {"outputs": []},
    "another": {"outputs": [OUTPUT | {"name": "z"}]},
    "a row short": {"outputs": [OUTPUT | {"shape": [1, 2], "data": [1.0, 2.0]}]},
    "too few values": {"outputs": [OUTPUT | {"data": [1.0]}]},
    "too many classes": {"outputs": [OUTPUT | {"shape": [2, 3], "data": [1.0] * 6}]},
    "one dimension": {"outputs": [OUTPUT | {"shape": [4]}]},
    "no columns": {"outputs": [OUTPUT | {"shape": [2, 0], "data": []}]},
    "text": {"outputs": [OUTPUT | {"datatype": "BYTES", "data": ["a"] * 4}]},
    "words": {"outputs": [OUTPUT | {"data": ["a"] * 4}]},
    "classes": {"outputs": [OUTPUT | {"datatype": "INT64"}]},
    "ragged": {"outputs": [OUTPUT | {"data": [[1.0, 2.0], [3.0]]}]},
    "another version": {"model_version": "4", "outputs": [OUTPUT]},
    "a list": [OUTPUT, OUTPUT],
    "a shape without end": {"outputs": [OUTPUT | {"shape": [2, math.inf]}]},
    "beyond all floats": {"outputs": [OUTPUT | {"data": [10**400] * 4}]},
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_malformed_answers_are_paid_and_not_stored(model, tmp_path, fault):
    model.change = lambda answer: MALFORMED[fault]
    store, pool = ResponseStore(str(tmp_path / "store.db")), from_tensors(torch.eye(4)[:2])
    with pytest.raises(TeacherError, match="that answer is paid, not stored"):
        store.ask(from_v2(model.url), pool, budget=2)
    assert store.accounts() == Accounts(paid=2)
    model.change = lambda answer: {"outputs": [OUTPUT | {"data": [[1.0, math.nan], [3.0, 4.0]]}]}  # nested is allowed
    with pytest.raises(TeacherError, match="1 of 2 inputs with NaN or infinity"):
        store.ask(from_v2(model.url), pool, budget=4)
    model.change = lambda answer: answer
    assert store.ask(from_v2(model.url), pool, budget=5).accounts.paid == 1


def test_fewer_classes_than_the_data_has(model, tmp_path):
    store, pool = ResponseStore(str(tmp_path / "store.db")), from_tensors(torch.eye(4), [0, 1, 2, 1])
    with pytest.raises(TeacherError, match=r"logits of shape \(4, 2\), where the inputs have 3 classes"):
        store.ask(from_v2(model.url), pool, budget=4)
    assert store.accounts() == Accounts(paid=4)


@pytest.mark.parametrize(
    ("declared", "inputs"),
    [
        ({"datatype": "FP32", "shape": [-1, 4]}, torch.zeros(2, 5)),
        ({"datatype": "FP32", "shape": [-1, 8, 8, 1]}, torch.zeros(2, 1, 8, 8)),
        ({"datatype": "FP32", "shape": [-1, 1, 8, 8]}, torch.zeros(2, 64)),
        ({"datatype": "INT64", "shape": [-1, 4]}, torch.zeros(2, 4)),
        ({"datatype": "BYTES", "shape": [-1]}, torch.zeros(2, 4)),
        ({"datatype": "FP32", "shape": [-1, 4]}, ["text"]),
    ],
)
def test_inputs_that_do_not_fit_are_not_sent(model, declared, inputs):
    model.metadata = METADATA | {"inputs": [{"name": "x", **declared}]}
    teacher = from_v2(model.url)
    with pytest.raises(NotCharged, match=r"takes|reads") as refused:
        teacher(inputs)
    assert not refused.value.retry
    assert len(model.requests) == 1


def test_class_names_and_tokens(model):
    assert from_v2(model.url).class_names is None
    teacher = from_v2(model.url, class_names=["cat", "dog"])
    assert teacher.class_names == ("cat", "dog")
    assert teacher.fingerprint == from_v2(model.url).fingerprint
    model.change = lambda answer: answer | {"usage": {"prompt_tokens": 5}}
    assert teacher(torch.zeros(2, 4)).tokens == Tokens(5, 0)
    with pytest.raises(UserError, match="3 names, but the teacher answers with 2 classes"):
        from_v2(model.url, class_names=["cat", "dog", "cow"])


def test_an_error_with_status_200(model):
    model.change = lambda answer: {"error": "model is overloaded"}
    with pytest.raises(NotCharged, match="model is overloaded") as refused:
        from_v2(model.url)(torch.zeros(2, 4))
    assert refused.value.retry


TWO = [{"name": name, "datatype": "FP32", "shape": [-1, 4]} for name in ("a", "b")]


def test_scaled_images_are_not_sent_as_bytes(model):
    model.metadata = METADATA | {"inputs": [{"name": "x", "datatype": "UINT8", "shape": [-1, 1, 2, 2]}]}
    with pytest.raises(NotCharged, match="the model takes UINT8, not floating point"):
        from_v2(model.url, mean=[0.5], std=[0.1])(torch.zeros(1, 1, 2, 2, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("metadata", "settings", "wrong"),
    [
        ({"inputs": TWO}, {}, "has the inputs a, b; name one"),
        ({"outputs": TWO}, {}, "has the outputs a, b; name one"),
        ({"outputs": TWO}, {"output": "c"}, "has the outputs a, b; name one"),
        ({"inputs": [TWO[0] | {"datatype": "BOOL"}]}, {}, "datatype BOOL"),
        ({"inputs": ["x"]}, {}, "does not give a V2 model's metadata"),
        ({"inputs": 3}, {}, "does not give a V2 model's metadata"),
        ({"inputs": [TWO[0] | {"shape": ["a", None]}]}, {}, "does not give a V2 model's metadata"),
        ({"outputs": [TWO[0] | {"shape": [math.inf]}]}, {}, "does not give a V2 model's metadata"),
        ({}, {"num_classes": 3}, "has 2 columns, not 3"),
        ({}, {"returns": "classes"}, "choose one"),
        ({}, {"mean": [0.5]}, "both mean and std"),
    ],
)
def test_choices_that_must_be_made(model, metadata, settings, wrong):
    model.metadata = METADATA | metadata
    with pytest.raises(UserError, match=wrong):
        from_v2(model.url, **settings)


def test_no_such_model(server, reply):
    server.reply = lambda request: reply({"error": "Model net not found"}, 404)
    with pytest.raises(UserError, match=r"metadata cannot be read .*404: Model net not found"):
        from_v2(f"{server.url}/v2/models/net")
    with pytest.raises(UserError, match="cannot be reached"):
        from_v2("http://127.0.0.1:1/v2/models/net")
    with pytest.raises(UserError, match="ends in /v2/models/NAME"):
        from_v2(server.url)
