"""tests/harness/cloud.py - moto with an instance, volumes that are image files, and a user; fixtures for tests of provider ebs.

A volume that is made from a snapshot is a copy of the snapshot's image; attaching it makes a loop device and the link
that udev would make below /dev/disk/by-id.
"""

import contextlib
import os
import pathlib
import re
import shlex
import subprocess
import urllib.parse
import xml.etree.ElementTree as ElementTree

import pytest

from ec2 import Proxy
from stillfs import STILLCTL

BY_ID = pathlib.Path("/dev/disk/by-id")


def plain(answer):
    return ElementTree.fromstring(re.sub(rb'xmlns="[^"]*"', b"", answer))


class CloudProxy(Proxy):
    """Also keeps every form that was sent and which snapshots were deleted, and plays CreateVolume, AttachVolume, DetachVolume
    and DeleteVolume."""

    def __init__(self, moto, images, where):
        self.forms, self.deleted, self.loops, self.volume_images, self.where = [], [], {}, {}, where
        self.gone = set()  # volumes that were deleted
        self.hide_device = False
        self.instance = ""
        super().__init__(moto, images)
        proxy = self

        def metadata(handler):
            """The instance's metadata service, version 2 alone."""
            paths = {"/latest/meta-data/instance-id": proxy.instance, "/latest/meta-data/placement/region": "us-east-1"}
            if handler.command == "PUT" and handler.path == "/latest/api/token":
                status, text = 200, "token"
            elif handler.headers.get("X-aws-ec2-metadata-token") != "token":
                status, text = 401, ""
            else:
                status, text = (200, paths[handler.path]) if handler.path in paths else (404, "")
            handler.send_response(status)
            handler.send_header("Content-Length", str(len(text)))
            handler.end_headers()
            handler.wfile.write(text.encode())
        self.server.RequestHandlerClass.do_GET = self.server.RequestHandlerClass.do_PUT = metadata

    def forward(self, handler, body):
        form = dict(urllib.parse.parse_qsl(body.decode()))
        self.forms.append(form)
        status, answer = super().forward(handler, body)
        if status == 200 and form.get("DryRun") != "true":
            self.play(form, answer)
        return status, answer

    def play(self, form, answer):
        action = form["Action"]
        if action == "CreateVolume" and form.get("SnapshotId") in self.copies:
            volume = plain(answer).findtext("volumeId")
            self.volume_images[volume] = self.where / f"{volume}.img"
            subprocess.run(["cp", "--reflink=auto", "--sparse=always", str(self.copies[form["SnapshotId"]]),
                            str(self.volume_images[volume])], check=True)
        elif action == "CopySnapshot":
            self.copies[plain(answer).findtext("snapshotId")] = self.copies[form["SourceSnapshotId"]]
        elif action == "AttachVolume" and form["VolumeId"] in self.volume_images and not self.hide_device:
            loop = subprocess.run(["losetup", "-f", "--show", str(self.volume_images[form["VolumeId"]])], check=True,
                                  capture_output=True, text=True).stdout.strip()
            link = BY_ID / ("nvme-Amazon_Elastic_Block_Store_" + form["VolumeId"].replace("-", ""))
            BY_ID.mkdir(parents=True, exist_ok=True)
            link.symlink_to(loop)
            self.loops[form["VolumeId"]] = loop, link
        elif action == "DeleteSnapshot":
            self.deleted.append(form["SnapshotId"])
        elif action in ("DetachVolume", "DeleteVolume"):
            self.detach(form["VolumeId"])
            if action == "DeleteVolume":
                self.gone.add(form["VolumeId"])

    def detach(self, volume):
        if volume in self.loops:
            loop, link = self.loops.pop(volume)
            link.unlink(missing_ok=True)
            subprocess.run(["losetup", "-d", loop], check=False)

    def close(self):
        for volume in list(self.loops):
            self.detach(volume)
        super().close()


class Cloud:
    def __init__(self, moto, where, images):
        """images: {device name: image}, in order; the first names are the volumes' of .volumes."""
        self.where = where
        where.mkdir(exist_ok=True)
        moto.check_signatures(False)
        self.instance = moto.ec2("RunInstances", ImageId="ami-12c6146b", MinCount=1, MaxCount=1,
                                 Placement__AvailabilityZone="us-east-1a").find(".//instanceId").text
        self.volumes = []
        by_volume = {}
        for device, image in images.items():
            volume = moto.ec2("CreateVolume", AvailabilityZone="us-east-1a", Size=1).find("volumeId").text
            moto.ec2("AttachVolume", VolumeId=volume, InstanceId=self.instance, Device=device)
            by_volume[volume] = (image, where)
            self.volumes.append(volume)
        key, secret = moto.user()
        self.proxy = CloudProxy(moto, by_volume, where)
        self.proxy.instance = self.instance
        self.env = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, "AWS_EC2_METADATA_DISABLED": "true",
                    "AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent"}
        self.options = {"provider": "ebs", "ebs__volumes": ":".join(self.volumes), "ebs__region": "us-east-1",
                        "ebs__instance": self.instance, "ebs__endpoint": self.proxy.url}
        self.calls, self.copies, self.made, self.faults, self.forms = (self.proxy.calls, self.proxy.copies, self.proxy.made,
                                                                       self.proxy.faults, self.proxy.forms)
        moto.check_signatures()

    def close(self):
        self.proxy.close()

    def volumes_left(self):
        """Those made of snapshots that are there."""
        return set(self.proxy.volume_images) - self.proxy.gone

    def elsewhere(self):
        """The environment of another machine: nothing but keys and where the services are."""
        env = {k: v for k, v in self.env.items() if k != "AWS_EC2_METADATA_DISABLED"}
        return {"PATH": os.environ["PATH"], **env, "AWS_ENDPOINT_URL_EC2": self.proxy.url,
                "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.proxy.url}

    def sent(self, action):
        """The forms of every call of this action."""
        return [f for f in self.forms if f["Action"] == action and f.get("DryRun") != "true"]


def tags_of(form, prefix="TagSpecification.1.Tag"):
    """{key: value} of a request."""
    return {form[f"{prefix}.{i}.Key"]: form[f"{prefix}.{i}.Value"] for i in range(1, 60) if f"{prefix}.{i}.Key" in form}


def snapshot(m, request):
    """Take a set through stillctl; 0, or its sentence. Not by a write of this process: the proxy's threads in it start and end
    children, and a signal that is pending for a moment interrupts a write that waits."""
    r = subprocess.run([str(STILLCTL), "--dir", str(m.control), "snapshot", *shlex.split(request)], capture_output=True, text=True)
    return r.stderr.strip() if r.returncode else 0


@pytest.fixture
def make_cloud(moto):
    with contextlib.ExitStack() as made:
        def make(where, images):
            c = Cloud(moto, where, images)
            made.callback(c.close)
            return c
        yield make


@pytest.fixture
def cloud(make_cloud, scratch):
    """One data volume, whose image is the scratch filesystem's."""
    return make_cloud(scratch.dir / "cloud", {"/dev/sdf": scratch.image})
