"""What the sinks in AWS have in common."""

import pytest
from cloud import aws
from contract import NEW

from rekeyd.errors import Refused, Transient
from rekeyd.sinks import settings_class

SETTINGS = {
    "secrets_manager": {"secret_id": "backup/s3"},
    "ssm_parameter": {"parameter": "/backup/s3"},
    "s3_object": {"bucket": "settings", "key": "backup.json"},
}


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize(
    ("fault", "told", "says"),
    [
        ("expired", Refused, "does not accept rekeyd's own credentials"),
        ("denied", Refused, "rekeyd's credentials lack"),
        ("unreachable", Transient, "AWS cannot be reached"),
        ("silent", Transient, "the answer was lost"),
    ],
)
def test_refused_credentials_a_missing_right_and_an_unreachable_aws_are_told_apart(
    kind, fault, told, says
):
    with aws() as cloud:
        cloud.faults["*"] = fault
        sink = settings_class(kind)(type=kind, **SETTINGS[kind]).open(cloud.context())

        for deed in (sink.check, sink.read, lambda: sink.put(NEW)):
            with pytest.raises(told, match=says) as caught:
                deed()
            assert caught.value.do
