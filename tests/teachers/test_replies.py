"""Errors as servers tell them, inside a success or with a status: their message, and what they mean for the request."""

import pytest

from tuition import ResponseStore
from tuition.data import Accounts, from_tensors
from tuition.store import TeacherError
from tuition.teachers import NotCharged, Refused, from_openai
from tuition.teachers.replies import LONGEST, line

LATER, NEVER, INPUTS = "retried", "stopped at once", "the inputs are refused"


def meaning(error: NotCharged) -> str:
    return INPUTS if isinstance(error, Refused) else LATER if error.retry else NEVER


INSIDE = [  # body, message, meaning
    ({"error": {"message": "Insufficient credits", "code": 402}}, "Insufficient credits", NEVER),
    ({"error": {"message": "No auth credentials", "code": "401"}}, "No auth credentials", NEVER),
    ({"error": "model 'x' not found, try pulling it first"}, "not found, try pulling", NEVER),
    ({"error": "the input length exceeds the context length"}, "context length", INPUTS),
    ({"error": "Model is overloaded", "error_type": "overloaded"}, "overloaded", LATER),
    ({"error": "Input validation error: `inputs` must have less than 512 tokens", "error_type": "validation"},
     "less than 512", INPUTS),
    ({"object": "error", "message": "This model's maximum context length is 100 tokens", "type": "BadRequestError",
      "param": None, "code": 400}, "maximum context length", INPUTS),
    ({"object": "error", "message": "The model `m` does not exist.", "type": "NotFoundError", "code": 404},
     "does not exist", NEVER),
    ({"detail": "Not Found"}, "Not Found", NEVER),
    ({"detail": [{"loc": ["body", "input"], "msg": "field required", "type": "value_error.missing"}]},
     "field required", NEVER),
    ({"message": "Rate limit reached for requests", "code": "rate_limit_exceeded"}, "Rate limit", LATER),
    ({"message": "Too many requests", "code": 429}, "Too many", LATER),
    ([{"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}], "overloaded", LATER),
    ({"error": {"message": "litellm.ContextWindowExceededError: too long", "type": None, "code": "400"}},
     "ContextWindowExceeded", INPUTS),
    ({"error": {"message": "flagged by moderation", "code": 403}}, "flagged", INPUTS),
    ({"error": {"code": "content_filter", "message": "The response was filtered"}}, "was filtered", INPUTS),
    ({"error": {"error": {"message": "nested", "type": "server_error"}}}, "nested", LATER),
    ({"success": False, "errors": [{"code": 7003, "message": "No route"}]}, "No route", NEVER),
    ({"data": [], "error": {"message": "Timed out", "code": 504}}, "Timed out", LATER),
    ({"data": None, "error": {"message": "Unsupported parameter: 'dimensions'", "code": 400}}, "dimensions", NEVER),
    ({"error": True}, "True", NEVER),
    ({"fault": {"faultstring": "Rate limit quota violation"}}, "quota violation", LATER),
]  # fmt: skip


@pytest.mark.parametrize(("body", "said", "means"), INSIDE)
def test_an_error_inside_a_success(server, reply, tmp_path, body, said, means):
    server.reply = lambda request: reply(body)
    store, teacher, pool = ResponseStore(str(tmp_path / "s.db")), from_openai("m", base_url=server.url), ["a", "b"]
    with pytest.raises(NotCharged, match=said) as refused:
        teacher(pool)
    assert meaning(refused.value) == means
    if means == NEVER:
        with pytest.raises(TeacherError, match=said):
            store.ask(teacher, from_tensors(pool), budget=2)
        assert store.accounts() == Accounts(failed=2)


WITH_STATUS = [
    (400, {"error": {"message": "maximum context length", "code": "context_length_exceeded"}}, INPUTS),
    (400, {"error": {"message": "odd", "code": None}}, INPUTS),
    (400, {"error": {"message": "odd", "param": "dimensions"}}, NEVER),
    (400, {"error": {"message": "odd", "code": "unsupported_parameter"}}, NEVER),
    (400, {"error": {"message": "The model `m` does not exist", "code": "model_not_found"}}, NEVER),
    (400, {"error": {"message": "API key not valid. Please pass a valid API key."}}, NEVER),
    (400, {"error": {"message": "too long: 'how do I get a new API key'"}}, INPUTS),
    (400, {"error": {"message": "cannot tokenize 'insufficient funds on my card'"}}, INPUTS),
    (400, {"error": {"message": "Billing hard limit has been reached", "code": "billing_hard_limit_reached"}}, NEVER),
    (400, {"error": {"message": "Your credit balance is too low", "type": "invalid_request_error"}}, NEVER),
    (422, {"detail": [{"msg": "too many inputs"}]}, INPUTS),
    (413, "not an error in JSON", INPUTS),
    (403, {"error": {"message": "Your input was flagged", "metadata": {"reasons": ["violence"]}}}, INPUTS),
    (403, {"error": {"message": "Country not supported"}}, NEVER),
    (404, {"error": {"message": "no"}}, NEVER),
    (405, {"detail": "Method Not Allowed"}, NEVER),
    (429, {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}, NEVER),
    (429, {"error": {"message": "Quota exceeded, limit: 15 per minute", "status": "RESOURCE_EXHAUSTED"}}, LATER),
    (429, {"error": {"message": "Request too large for gpt-x on tokens per min (TPM)"}}, INPUTS),
    (429, {"error": {"message": "Rate limit reached, input tokens exceed 10000 per min"}}, LATER),
    (500, {"error": {"message": "input is too large to process. increase the batch size"}}, INPUTS),
    (500, {"error": "the input length exceeds the context length"}, INPUTS),
    (500, {"error": {"message": "The server had an error"}}, LATER),
    (503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}, LATER),
    (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, LATER),
]


@pytest.mark.parametrize(("status", "body", "means"), WITH_STATUS)
def test_an_error_with_a_status(server, reply, status, body, means):
    server.reply = lambda request: reply(body, status)
    with pytest.raises(NotCharged, match=f"status {status}") as refused:
        from_openai("m", base_url=server.url)(["a", "b"])
    assert meaning(refused.value) == means


def test_answers_with_a_word_beside_them_are_answers(server, reply):
    """An error that is null, or a message of success, is not an error."""
    for more in ({"error": None}, {"message": "success", "code": 0}, {"detail": ""}, {"error": {}}):
        server.reply = lambda request, more=more: reply({"data": [{"embedding": [1.0]}], **more})
        assert from_openai("m", base_url=server.url)(["a"])["embedding"].shape == (1, 1)


def test_messages_are_one_short_line(server, reply):
    server.reply = lambda request: reply({"error": {"message": "one\n two\x1b[31m\r\u202ethree " + "x" * 10**6}}, 400)
    with pytest.raises(Refused) as refused:
        from_openai("m", base_url=server.url)(["a"])
    said = str(refused.value)
    assert "one two [31m three xxx" in said
    assert len(said) < LONGEST + 100
    assert said.isprintable()
    assert line("short") == "short"


@pytest.mark.parametrize("message", [{"odd": [1, None]}, ["a", "b"], 17, [[]], {"message": {"deep": 1}}])
def test_messages_of_no_known_shape_are_shown_all_the_same(server, reply, message):
    server.reply = lambda request: reply({"error": message}, 400)
    with pytest.raises(Refused, match=r"status 400: \S"):
        from_openai("m", base_url=server.url)(["a"])
