"""What botocore raises, said in the words of `rekeyd.errors`: the one edge for every AWS adapter.

Codes are those of AWS, "Common Error Types", and of the error pages of IAM, STS, S3, Secrets
Manager, SSM and KMS, and what SeaweedFS and Ceph answer to calls that they do not know. botocore's
own retries are over when an error arrives here.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from botocore import exceptions
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from rekeyd.errors import Gone, Misconfigured, Refused, RekeydError, Transient, Unanswered


def _codes(names: str) -> frozenset[str]:
    return frozenset(names.split())


DENIED = _codes(
    "AccessDenied AccessDeniedException AllAccessDisabled AuthorizationError AuthorizationFailure"
    " Forbidden NotAuthorized UnauthorizedOperation"
)
CREDENTIALS = _codes(
    "AuthFailure ExpiredToken ExpiredTokenException IncompleteSignature InvalidAccessKeyId"
    " InvalidClientTokenId InvalidSignatureException InvalidToken MissingAuthenticationToken"
    " MissingAuthenticationTokenException RequestExpired RequestTimeTooSkewed"
    " SignatureDoesNotMatch TokenRefreshRequired UnrecognizedClientException"
)
CLOCK = _codes("RequestExpired RequestInTheFuture RequestTimeTooSkewed")
CLOCK_TEXTS = ("Signature expired", "Signature not yet current")
"""How IAM and STS begin what they say of a clock that is wrong, under a code that tells no more."""

MISSING = _codes(
    "NoSuchBucket NoSuchEntity NoSuchEntityException NoSuchKey NotFoundException ParameterNotFound"
    " ParameterVersionNotFound ResourceNotFoundException"
)
EXISTS = _codes(
    "EntityAlreadyExists EntityAlreadyExistsException ParameterAlreadyExists"
    " ResourceExistsException"
)
LIMIT = _codes(
    "LimitExceeded LimitExceededException ParameterLimitExceeded QuotaExceeded"
    " ServiceQuotaExceededException"
)
BUSY = _codes(
    "ConcurrentModification ConcurrentModificationException ConditionalRequestConflict"
    " EntityTemporarilyUnmodifiable OperationAborted PriorRequestNotComplete RequestLimitExceeded"
    " RequestThrottled RequestThrottledException RequestTimeout SlowDown ThrottledException"
    " Throttling ThrottlingException TooManyRequestsException TooManyUpdates"
)
FAILED = _codes(
    "InternalError InternalFailure InternalServerError InternalServiceError ServiceFailure"
    " ServiceUnavailable ServiceUnavailableException"
)
UNSUPPORTED = _codes(
    "InvalidAction MethodNotAllowed NotImplemented NotImplementedException"
    " UnknownOperationException UnsupportedOperation"
)
"""What stores answer that speak IAM, STS or S3 and have not all of it."""

QUOTABLE = DENIED | LIMIT | {"MalformedPolicyDocument", "MalformedPolicyDocumentException"}
"""Codes whose text names principals, actions and limits only. Others may repeat a parameter."""

NEVER_SENT = (
    exceptions.EndpointConnectionError,
    exceptions.ConnectTimeoutError,
    exceptions.ProxyConnectionError,
)
ANSWER_LOST = (
    exceptions.HTTPClientError,  # with it time-outs while reading, and dropped connections
    exceptions.IncompleteReadError,
    exceptions.SSLError,  # may strike after the request was sent
    ResponseParserError,
    HTTPError,  # botocore lets some of urllib3's through while a body is read
    OSError,
)
CREDENTIALS_LATER = (
    exceptions.CredentialRetrievalError,
    exceptions.MetadataRetrievalError,
    exceptions.TokenRetrievalError,
)
NO_CREDENTIALS = (
    exceptions.NoCredentialsError,
    exceptions.NoAuthTokenError,
    exceptions.PartialCredentialsError,
    exceptions.SSOError,
    exceptions.LoginError,
)
SETTINGS = (
    exceptions.BaseEndpointResolverError,
    exceptions.ConfigNotFound,
    exceptions.ConfigParseError,
    exceptions.InvalidRegionError,
    exceptions.ProfileNotFound,
    exceptions.UnknownCredentialError,
)


@contextmanager
def translated(what: str, action: str, resource: str, party: str = "rotator") -> Iterator[None]:
    """Run AWS calls; what they raise becomes ours, and the library's error is hidden.

    `what` completes "rekeyd could not …", `action` is IAM's name of the permission needed (or ""
    when none is) and `resource` what it is needed on; `party` is whose policy `rekeyd policy`
    prints. Raises

    * `Gone` for what does not exist, and `Refused` with the reason `permission`, `credentials`,
      `clock` (this machine's is wrong), `exists`, `limit`, `unsupported` (a store that is not AWS
      does not know the call) or `request` (anything else that AWS definitely did not do);
    * `Transient` when nothing was done but may be later, and its subclass `Unanswered` when it may
      have been done: time-outs, dropped connections, 5xx, unreadable answers;
    * `Misconfigured` for a profile, region or AWS configuration file that cannot be used.
    """
    try:
        yield
    except exceptions.ClientError as error:
        raise _answer(error, what, action, resource, party) from None
    except (exceptions.BotoCoreError, *ANSWER_LOST) as error:
        raise _no_answer(error, what) from None  # it may repeat parameters, and so a secret


def body(answer: dict[str, Any], most: int) -> bytes:
    """Read the body of an answer of S3, of `most` bytes at most, within `translated`.

    Only the read after its last byte tells that it was cut short.
    """
    read = b""
    with closing(answer["Body"]) as stream:
        while len(read) < most and (more := stream.read(most - len(read))):
            read += more
    return read


@contextmanager
def setting_up(service: str) -> Iterator[None]:
    """Make a client. Raises as `translated` does."""
    what = f"set up {service}"
    try:
        with translated(what, "", service):
            yield
    except ValueError as error:  # such as an AWS_ENDPOINT_URL that is no address
        raise _unusable(error, what) from None


@contextmanager
def signing_in(role: str) -> Iterator[None]:
    """Get the daemon's own credentials, which may take calls of AWS to assume `role`.

    Raises as `translated` does, but never `Unanswered`: what is to be signed was not sent. Where
    they come from may be anybody's program, and what it leads to is `Transient`.
    """
    try:
        with translated("sign in", "sts:AssumeRole", role):
            yield
    except Unanswered as error:
        raise Transient(str(error), error.do) from None
    except RekeydError:
        raise
    except Exception as error:  # noqa: BLE001 - a credential_process can fail in any way
        raise _not_fetched(error, "sign in") from None


def _answer(
    error: exceptions.ClientError, what: str, action: str, resource: str, party: str
) -> RekeydError:
    code = str(error.response.get("Error", {}).get("Code", "unknown"))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    said = f" ({_text(error)})" if code in QUOTABLE and _text(error) else ""
    if code in CLOCK or _text(error).startswith(CLOCK_TEXTS):
        return Refused(
            f"could not {what}: by this machine's clock the request is from another time ({code}); "
            "the pairs in use are not touched, but nothing is rotated",
            "set the clock (`timedatectl` tells whether it is synchronised); rekeyd then goes on "
            "by itself",
            reason="clock",
        )
    if code in CREDENTIALS:
        return Refused(
            f"could not {what}: AWS does not accept rekeyd's own credentials ({code}); "
            "the pairs in use go on working, but nothing is rotated",
            "renew the credentials that rekeyd runs with",
            reason="credentials",
        )
    if code in BUSY or status == 429:
        return Transient(
            f"could not {what}: AWS is busy ({code}); nothing was done and nothing is lost",
            "try again in a minute",
        )
    if code in UNSUPPORTED or status in {405, 501}:
        return Refused(
            f"could not {what}: this store does not know the call{f' {action}' if action else ''}",
            "config/README.md, `Stores that are not AWS`, says what rekeyd can do without",
            reason="unsupported",
        )
    if code in FAILED or status >= 500:
        return Unanswered(
            f"could not {what}: AWS failed ({code}), so nobody knows whether it was done",
            "try again in a minute; health.aws.amazon.com tells of outages",
        )
    if code in MISSING or status == 404:
        return Gone(
            f"could not {what}: {resource} does not exist ({code})",
            "check the name in the configuration, and the account that rekeyd signs in to",
            reason="missing",
        )
    if code in DENIED or status == 403:
        return _denied(what, action, resource, party, said)
    if code in EXISTS:
        return Refused(f"could not {what}: {resource} exists already", reason="exists")
    if code in LIMIT:
        return Refused(
            f"could not {what}: a limit of the AWS account is reached{said}",
            "delete what is not needed, or ask AWS for a higher quota",
            reason="limit",
        )
    return Refused(
        f"could not {what}: AWS refuses the request on {resource} ({code}){said}",
        "compare the configuration with what AWS allows there",
        reason="request",
    )


def _denied(what: str, action: str, resource: str, party: str, said: str) -> Refused:
    needed = f"{action} on {resource}" if action else f"access to {resource}"
    lacking = "it lacks" if party == "backup" else "rekeyd's credentials lack"
    return Refused(
        f"could not {what}: {lacking} {needed}{said}",
        f"grant it: `rekeyd policy {party}` prints the least policy; "
        "a permissions boundary or an organization's policy may deny it too",
    )


def _no_answer(error: Exception, what: str) -> RekeydError:
    name = type(error).__name__
    if isinstance(error, NEVER_SENT):
        return Transient(
            f"could not {what}: AWS cannot be reached ({name}); the pairs in use are not touched",
            "check the network, name resolution, the proxy and AWS_ENDPOINT_URL",
        )
    if isinstance(error, ANSWER_LOST):
        return Unanswered(
            f"could not {what}: the answer was lost ({name}), so nobody knows whether it was done",
            "check the network and the proxy; AWS_CA_BUNDLE if the certificate is not trusted",
        )
    if isinstance(error, CREDENTIALS_LATER):
        return _not_fetched(error, what)
    if isinstance(error, NO_CREDENTIALS):
        return Refused(
            f"could not {what}: rekeyd has no usable AWS credentials ({name}); "
            "the pairs in use go on working, but nothing is rotated",
            "give it a role, a profile or AWS_ACCESS_KEY_ID; `aws sts get-caller-identity` "
            "shows what is found",
            reason="credentials",
        )
    if isinstance(error, SETTINGS):
        return _unusable(error, what)
    return Refused(
        f"could not {what}: the AWS library refuses the request ({name})",
        "compare the configuration with what AWS allows there",
        reason="request",
    )


def _not_fetched(error: Exception, what: str) -> Transient:
    return Transient(
        f"could not {what}: rekeyd's own credentials cannot be fetched just now "
        f"({type(error).__name__}); the pairs in use go on working",
        "check the role, the instance metadata or the credential_process that provides them",
    )


def _unusable(error: Exception, what: str) -> Misconfigured:
    return Misconfigured(
        f"could not {what}: the AWS settings cannot be used ({type(error).__name__})",
        "check `aws.region` and `aws.profile`, the file that AWS_CONFIG_FILE names, and "
        "AWS_ENDPOINT_URL",
    )


def _text(error: exceptions.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Message", "")).rstrip(".")
