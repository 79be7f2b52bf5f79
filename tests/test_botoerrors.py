"""Each way in which a call to AWS ends becomes one of ours, and repeats no parameter."""

import traceback

import boto3
import pytest
from botocore import exceptions
from botocore.parsers import ResponseParserError
from botocore.stub import Stubber
from urllib3.exceptions import SSLError

from rekeyd.botoerrors import translated
from rekeyd.errors import Gone, Misconfigured, Refused, RekeydError, Transient, Unanswered

CANARY = "canary/SECRET+0123456789"


def failing(error):
    with (
        pytest.raises(RekeydError) as caught,
        translated("read the user", "iam:GetUser", "user a", "provisioner"),
    ):
        raise error
    return caught.value


def client_error(code, status=400, message=""):
    answer = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return exceptions.ClientError(answer, "GetUser")


@pytest.mark.parametrize(
    ("code", "status", "kind", "reason"),
    [
        ("AccessDenied", 403, Refused, "permission"),
        ("AccessDeniedException", 400, Refused, "permission"),
        ("403", 403, Refused, "permission"),
        ("InvalidClientTokenId", 403, Refused, "credentials"),
        ("SignatureDoesNotMatch", 403, Refused, "credentials"),
        ("ExpiredToken", 400, Refused, "credentials"),
        ("RequestTimeTooSkewed", 403, Refused, "clock"),
        ("RequestInTheFuture", 400, Refused, "clock"),
        ("NoSuchEntity", 404, Gone, "missing"),
        ("ResourceNotFoundException", 400, Gone, "missing"),
        ("404", 404, Gone, "missing"),
        ("EntityAlreadyExists", 409, Refused, "exists"),
        ("LimitExceeded", 409, Refused, "limit"),
        ("ValidationException", 400, Refused, "request"),
        ("NotImplemented", 501, Refused, "unsupported"),
        ("MethodNotAllowed", 405, Refused, "unsupported"),
        ("InvalidAction", 400, Refused, "unsupported"),
        ("501", 501, Refused, "unsupported"),
        ("Throttling", 400, Transient, None),
        ("429", 429, Transient, None),
        ("EntityTemporarilyUnmodifiable", 409, Transient, None),
        ("ConcurrentModification", 409, Transient, None),
        ("SlowDown", 503, Transient, None),
        ("ServiceFailure", 500, Unanswered, None),
        ("InternalFailure", 200, Unanswered, None),
        ("502", 502, Unanswered, None),
    ],
)
def test_an_answer_of_aws_becomes_ours(code, status, kind, reason):
    error = failing(client_error(code, status))
    assert type(error) is kind
    assert getattr(error, "reason", None) == reason
    assert str(error).startswith("could not read the user: ")


@pytest.mark.parametrize(
    "said",
    [
        "Signature expired: 20261125T110000Z is now earlier than 20261125T115500Z (… - 5 min.)",
        "Signature not yet current: 20261125T130000Z is still later than 20261125T120500Z",
    ],
)
def test_a_wrong_clock_is_told_from_wrong_credentials(said):
    ours = failing(client_error("SignatureDoesNotMatch", 403, said))
    assert (ours.reason, "set the clock" in ours.do) == ("clock", True)
    assert "20261125" not in str(ours) + ours.do


NO_RESPONSE = {"endpoint_url": "https://iam.amazonaws.com", "error": CANARY}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (exceptions.EndpointConnectionError(**NO_RESPONSE), Transient),
        (exceptions.ConnectTimeoutError(**NO_RESPONSE), Transient),
        (exceptions.ProxyConnectionError(proxy_url="http://proxy", error=CANARY), Transient),
        (exceptions.ReadTimeoutError(**NO_RESPONSE), Unanswered),
        (exceptions.ConnectionClosedError(**NO_RESPONSE), Unanswered),
        (exceptions.SSLError(**NO_RESPONSE), Unanswered),
        (exceptions.HTTPClientError(error=CANARY), Unanswered),
        (exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2), Unanswered),
        (ResponseParserError(CANARY), Unanswered),
        (SSLError(CANARY), Unanswered),
        (ConnectionResetError(CANARY), Unanswered),
        (exceptions.CredentialRetrievalError(provider="p", error_msg=CANARY), Transient),
        (exceptions.NoCredentialsError(), Refused),
        (exceptions.PartialCredentialsError(provider="env", cred_var=CANARY), Refused),
        (exceptions.UnauthorizedSSOTokenError(), Refused),
        (exceptions.ProfileNotFound(profile="backup"), Misconfigured),
        (exceptions.NoRegionError(), Misconfigured),
        (exceptions.ParamValidationError(report=CANARY), Refused),
    ],
)
def test_no_answer_at_all_becomes_ours_too(error, kind):
    ours = failing(error)
    assert type(ours) is kind
    assert ours.do
    assert CANARY not in "".join(traceback.format_exception(ours))
    assert type(error).__name__ in str(ours)


@pytest.mark.parametrize("error", [exceptions.NoCredentialsError(), exceptions.SSOError()])
def test_missing_credentials_are_a_hold_of_their_own(error):
    assert failing(error).reason == "credentials"


@pytest.mark.parametrize("code", ["ValidationException", "ServiceFailure", "InvalidInput"])
def test_words_of_aws_that_may_repeat_a_parameter_are_not_repeated(code):
    ours = failing(client_error(code, 400, f"Value '{CANARY}' at 'secretString' is too long"))
    assert CANARY not in "".join(traceback.format_exception(ours)) + ours.do


def test_a_denial_names_action_resource_cause_and_where_the_policy_is_printed():
    why = "because no identity-based policy allows the iam:GetUser action."
    ours = failing(client_error("AccessDenied", 403, why))
    assert "lack iam:GetUser on user a" in str(ours)
    assert "no identity-based policy allows" in str(ours)
    assert "rekeyd policy provisioner" in ours.do


def test_a_denial_that_no_action_grants_names_the_resource():
    with pytest.raises(Refused, match="lack access to STS"), translated("sign in", "", "STS"):
        raise client_error("AccessDenied", 403)


def test_a_real_client_raises_ours_and_success_passes():
    iam = boto3.client("iam", "us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    with Stubber(iam) as stub:
        stub.add_client_error("get_user", "NoSuchEntity", http_status_code=404)
        stub.add_response("delete_user", {})
        with pytest.raises(Gone, match="user a does not exist"), translated("look", "", "user a"):
            iam.get_user(UserName="a")
        with translated("delete", "iam:DeleteUser", "user a"):
            iam.delete_user(UserName="a")


def test_errors_that_are_not_of_aws_pass_untouched():
    with pytest.raises(ZeroDivisionError), translated("divide", "", "zero"):
        raise ZeroDivisionError
