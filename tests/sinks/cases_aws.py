"""The sinks in AWS, for the contract. A consumer reads them with boto3 alone."""

import json
from contextlib import contextmanager

from botocore.exceptions import ClientError
from cloud import aws
from contract import Case, Place

from rekeyd.secret import AccessPair, Secret
from rekeyd.sinks import settings_class


def case(kind, service, view, write, **settings):
    """Make a case. `view` gives the text that a consumer gets, and all else that it sees."""

    @contextmanager
    def place(_):
        with aws() as cloud:

            def look():
                client = cloud.client(service)
                try:
                    return view(client)
                except ClientError:
                    return None
                finally:
                    client.close()

            if service == "s3":
                client = cloud.client(service)
                client.create_bucket(Bucket=settings["bucket"])
                client.close()
            yield Place(
                open=lambda: settings_class(kind)(type=kind, **settings).open(cloud.context()),
                consumer=lambda: pair(look()),
                look=look,
                deny=lambda: cloud.faults.update(dict.fromkeys(write, "denied")),
            )

    return Case(kind, place)


def pair(seen):
    if seen is None:
        return None
    found = json.loads(seen[0])
    return AccessPair(found["AWS_ACCESS_KEY_ID"], Secret(found["AWS_SECRET_ACCESS_KEY"]))


def secret(client):
    text = client.get_secret_value(SecretId="backup/s3")["SecretString"]
    return text, client.describe_secret(SecretId="backup/s3")["VersionIdsToStages"]


def parameter(client):
    found = client.get_parameter(Name="/backup/s3", WithDecryption=True)["Parameter"]
    return found["Value"], found["Version"]


def stored(client):
    found = client.get_object(Bucket="settings", Key="backup.json")
    with found["Body"] as body:
        return body.read(), found["LastModified"], found["ETag"]


CASES = [
    case(
        "secrets_manager",
        "secretsmanager",
        secret,
        ["PutSecretValue", "CreateSecret", "UpdateSecretVersionStage"],
        secret_id="backup/s3",
    ),
    case("ssm_parameter", "ssm", parameter, ["PutParameter"], parameter="/backup/s3"),
    case("s3_object", "s3", stored, ["PutObject"], bucket="settings", key="backup.json"),
]
