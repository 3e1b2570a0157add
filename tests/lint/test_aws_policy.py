"""docs/aws.md's policies allow exactly what the code can send: every action that stands in the sources is in the table and in
a policy, and the other way round."""

import json
import pathlib
import re

TOP = pathlib.Path(__file__).resolve().parents[2]
ACTION = re.compile(r'"((?:Describe|Create|Delete|Attach|Detach|Copy|Modify|Assume)[A-Z][A-Za-z]+)"')
STS = {"AssumeRole", "AssumeRoleWithWebIdentity"}


def sent():
    """Literals that are names of actions; fields of answers begin with a small letter."""
    files = [f for d in ("ebs", "ebs_tool", "verify") for f in sorted((TOP / "snapshot" / d).glob("*.c"))]
    return {a for f in files for a in ACTION.findall(f.read_text())} - {"DeleteOnTermination", "DescribeSnapshotsResponse"}


def policies():
    """{name: [statement]} of the text's indented JSON."""
    text = (TOP / "docs" / "aws.md").read_text()
    found = re.findall(r'^(?:\*(\w+)\*[^\n]*|on that key):\n\n(    \{ "Version"(?:.*\n)(?:    .*\n)*)', text, re.M)
    return {(name or "kms").lower(): json.loads(body)["Statement"] for name, body in found}


def actions(statements):
    listed = [s["Action"] if isinstance(s["Action"], list) else [s["Action"]] for s in statements]
    return {a.split(":")[1] for one in listed for a in one if a.startswith("ec2:")}


def test_the_policies_allow_what_the_code_can_send_and_no_more():
    p = policies()
    assert set(p) == {"take", "operate", "prune", "restore", "verify", "kms"}
    assert set().union(*(actions(s) for s in p.values())) == sent() - STS
    table = (TOP / "docs" / "aws.md").read_text().split("## Policy")[1].split("Five policies")[0]
    assert set(re.findall(r"\b(?:Describe|Create|Delete|Attach|Detach|Copy|Modify|Assume)[A-Z]\w+", table)) == sent()


def test_who_takes_sets_cannot_erase_or_change_any():
    p = policies()
    assert actions(p["take"]) == {"DescribeInstances", "DescribeVolumes", "DescribeSnapshots", "CreateSnapshot", "CreateSnapshots",
                                  "CreateTags"}
    for s in p["take"] + p["operate"]:
        assert "Delete" not in json.dumps(s["Action"])
        if "ec2:CreateTags" in s["Action"]:
            assert "ec2:CreateAction" in json.dumps(s) or "aws:ResourceTag/stillfs:lineage" in json.dumps(s)
    assert all("aws:ResourceTag/stillfs:lineage" in json.dumps(s) for s in p["prune"] if "ec2:DeleteSnapshot" in s["Action"])


def test_who_verifies_touches_no_volume_but_those_made_for_it():
    p = policies()["verify"]
    mark = {"Null": {"aws:ResourceTag/stillfs:verification": "false"}}
    for s in p:
        touching = {"ec2:AttachVolume", "ec2:DetachVolume", "ec2:DeleteVolume"} & set(s["Action"])
        assert not touching or s.get("Condition") == mark or s["Resource"] == "arn:*:ec2:*:*:instance/*"
        assert "ec2:CreateTags" not in s["Action"] or s["Condition"] == {"StringEquals": {"ec2:CreateAction": "CreateVolume"}}
    assert actions(p) == {"DescribeInstances", "DescribeVolumes", "DescribeSnapshots", "CreateVolume", "CreateTags", "AttachVolume",
                          "DetachVolume", "DeleteVolume"}
    made = (TOP / "snapshot" / "ebs_tool" / "make.c").read_text()
    assert '"stillfs:verification", "TagSpecification' in made


def test_the_tags_that_are_added_later_are_those_that_operate_allows():
    allowed = set(policies()["operate"][0]["Condition"]["ForAllValues:StringEquals"]["aws:TagKeys"])
    text = "".join(f.read_text() for f in (TOP / "snapshot" / "ebs").glob("*.c"))
    assert set(re.findall(r'api_tag_all\([^"]*"(stillfs:\w+)"', text)) == allowed
