"""A program that uses one boto3 client for ever, as a backup service does.

It puts, gets and deletes until a file appears, and prints what was refused.
"""

import json
import sys
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError


def main(endpoint: str, bucket: str, patience: float, stop: Path) -> None:
    once = Config(
        retries={"total_max_attempts": 1}, connect_timeout=patience, read_timeout=patience
    )
    session = boto3.Session(profile_name="backup", region_name="us-east-1")
    s3 = session.client("s3", endpoint_url=endpoint, config=once)
    where = {"Bucket": bucket, "Key": "backup"}
    rounds, refused = 0, []
    while not stop.exists():
        try:
            s3.put_object(**where, Body=b"%d" % rounds)
            s3.get_object(**where)["Body"].read()
            s3.delete_object(**where)
        except (BotoCoreError, ClientError) as error:
            refused.append(str(error))
        rounds += 1
    json.dump({"rounds": rounds, "refused": refused}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), Path(sys.argv[4]))
