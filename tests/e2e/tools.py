"""Real backup tools, each run a process of its own that reads the pair where its recipe says.

The places of the pair are those of `deploy/tools.md`, below another folder.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REKEYD = Path(sys.executable).with_name("rekeyd")
PATIENCE = 300.0
Commands = Sequence[Sequence[str | Path]]


class Tool:
    """One backup tool with its bucket: how it is told to back up, to expire and to restore."""

    name: str
    """As its preset is called."""

    def __init__(self, folder: Path, endpoint: str, bucket: str) -> None:
        self.folder = folder
        self.endpoint = endpoint
        self.host = endpoint.removeprefix("http://")
        self.bucket = bucket
        self.environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(folder),
            "LC_ALL": "C.UTF-8",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def prepare(self) -> Commands:
        """Return what is run once, before the first backup."""
        return ()

    def backup(self, source: Path) -> Commands:
        raise NotImplementedError

    def expire(self) -> Commands:
        """Return what deletes older backups, or what is left of files that are gone."""
        raise NotImplementedError

    def restore(self, target: Path) -> Commands:
        raise NotImplementedError

    def restored(self, target: Path, source: Path) -> Path:
        """Return where below `target` the files of `source` then are."""
        return target

    def delete(self) -> Commands:
        """Return what deletes a backup altogether."""
        raise NotImplementedError

    def run(self, commands: Commands) -> subprocess.CompletedProcess[str]:
        """Run commands one after the other, and return the first that fails, or the last."""
        done = subprocess.CompletedProcess[str]([], 0, "", "")
        for command in commands:
            done = subprocess.run(
                command,
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
            if done.returncode:
                break
        return done


class Restic(Tool):
    name = "restic"

    def __init__(self, folder: Path, endpoint: str, bucket: str) -> None:
        super().__init__(folder, endpoint, bucket)
        self.environment |= {
            "AWS_SHARED_CREDENTIALS_FILE": str(folder / "credentials"),
            "AWS_PROFILE": "backup",
            "RESTIC_REPOSITORY": f"s3:{endpoint}/{bucket}",
            "RESTIC_PASSWORD": "correct horse",
        }
        del self.environment["AWS_DEFAULT_REGION"]

    def prepare(self) -> Commands:
        return [["restic", "init"]]

    def backup(self, source: Path) -> Commands:
        return [["restic", "backup", "--host=db1", source]]

    def expire(self) -> Commands:
        return [["restic", "forget", "--keep-last=2", "--prune"]]

    def restore(self, target: Path) -> Commands:
        return [["restic", "check"], ["restic", "restore", "latest", "--target", target]]

    def restored(self, target: Path, source: Path) -> Path:
        return target / source.relative_to("/")

    def delete(self) -> Commands:
        asked = ["restic", "forget", "latest"]  # for a quarter of an hour, when it is refused
        return [["timeout", "20", *asked]]


class Rclone(Tool):
    name = "rclone"

    def __init__(self, folder: Path, endpoint: str, bucket: str) -> None:
        super().__init__(folder, endpoint, bucket)
        self.environment |= {
            "RCLONE_CONFIG": str(folder / "rclone.conf"),
            "RCLONE_S3_ENDPOINT": endpoint,
            "RCLONE_S3_PROVIDER": "Minio",  # AWS's buckets are host names, a loopback's are paths
            "RCLONE_S3_UPLOAD_CUTOFF": "5M",  # large files in parts, and not from 200M on
            "RCLONE_S3_CHUNK_SIZE": "5M",
            "RCLONE_RETRIES": "1",
            "RCLONE_LOW_LEVEL_RETRIES": "2",
        }
        self.place = f"backup:{bucket}/rclone"

    def backup(self, source: Path) -> Commands:
        replaced = f"--backup-dir={self.place}/replaced"
        return [["rclone", "sync", source, f"{self.place}/latest", replaced]]

    def expire(self) -> Commands:
        return [["rclone", "delete", f"{self.place}/replaced", "--min-age=1s"]]

    def restore(self, target: Path) -> Commands:
        return [["rclone", "copy", f"{self.place}/latest", target]]

    def delete(self) -> Commands:
        return [["rclone", "delete", f"{self.place}/latest"]]


class S3cmd(Tool):
    name = "s3cmd"

    def __init__(self, folder: Path, endpoint: str, bucket: str) -> None:
        super().__init__(folder, endpoint, bucket)
        self.s3cmd = [
            *("s3cmd", f"--config={folder / 's3cfg'}", "--no-ssl", "--region=us-east-1"),
            *(f"--host={self.host}", f"--host-bucket={self.host}", "--multipart-chunk-size-mb=5"),
        ]
        self.place = f"s3://{bucket}/s3cmd/"

    def backup(self, source: Path) -> Commands:
        return [[*self.s3cmd, "sync", f"{source}/", self.place]]

    def expire(self) -> Commands:
        source = self.folder / "source"
        return [[*self.s3cmd, "sync", "--delete-removed", f"{source}/", self.place]]

    def restore(self, target: Path) -> Commands:
        return [[*self.s3cmd, "sync", self.place, f"{target}/"]]

    def delete(self) -> Commands:
        return [[*self.s3cmd, "del", "--recursive", "--force", self.place]]


class Duplicity(Tool):
    name = "duplicity"

    def __init__(self, folder: Path, endpoint: str, bucket: str) -> None:
        super().__init__(folder, endpoint, bucket)
        self.place = f"boto3+s3://{bucket}/duplicity"

    def _duplicity(self, *arguments: str | Path) -> Sequence[str | Path]:
        fixed = (
            *("--no-encryption", "--archive-dir=archive", f"--s3-endpoint-url={self.endpoint}"),
            *("--num-retries=2", "--backend-retry-delay=1"),
        )
        script = 'set -a; . ./duplicity.env; exec duplicity "$@"'
        return ["sh", "-c", script, "duplicity", *arguments, *fixed]

    def backup(self, source: Path) -> Commands:
        often = ("--full-if-older-than=5s", "--s3-multipart-chunk-size=5")
        return [self._duplicity(*often, source, self.place)]

    def expire(self) -> Commands:
        return [self._duplicity("remove-all-but-n-full", "1", "--force", self.place)]

    def restore(self, target: Path) -> Commands:
        return [self._duplicity("restore", "--force", self.place, target)]

    def delete(self) -> Commands:
        full = self._duplicity("full", self.folder / "source", self.place)
        return [full, *self.expire()]  # it keeps the last full one whatever it is told


class AwsCli(Tool):
    name = "aws-cli"

    def __init__(self, folder: Path, endpoint: str, bucket: str) -> None:
        super().__init__(folder, endpoint, bucket)
        process = f"credential_process = {REKEYD} credentials {folder / 'pair.json'}\n"
        (folder / "aws.config").write_text("[profile backup]\n" + process)
        self.environment |= {
            "AWS_CONFIG_FILE": str(folder / "aws.config"),
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }
        self.s3 = ["aws", f"--endpoint-url={endpoint}", "--profile=backup", "s3"]
        self.place = f"s3://{bucket}/aws-cli/"

    def backup(self, source: Path) -> Commands:
        return [[*self.s3, "sync", source, self.place]]

    def expire(self) -> Commands:
        return [[*self.s3, "sync", "--delete", self.folder / "source", self.place]]

    def restore(self, target: Path) -> Commands:
        return [[*self.s3, "sync", self.place, target]]

    def delete(self) -> Commands:
        return [[*self.s3, "rm", "--recursive", self.place]]


TOOLS: tuple[type[Tool], ...] = (Restic, Rclone, S3cmd, Duplicity, AwsCli)
