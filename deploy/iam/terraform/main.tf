# What `rekeyd provision` makes, for those who keep their IAM in Terraform: the backup user, its
# group and its policy. And the policy of the role that rekeyd runs as. The keys are rekeyd's alone.
#
# The documents are those of `rekeyd policy`, so that they say what your configuration says:
#
#   rekeyd policy backup > backup.json && rekeyd policy rotator > rotator.json
terraform {
  required_version = ">= 0.15"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 3.39"
    }
  }
}

locals {
  # By this tag `rekeyd provision` knows them for its own, should you change over to it.
  tags = merge(var.tags, { managed-by = "rekeyd" })
}

resource "aws_iam_user" "backup" {
  name                 = var.user
  path                 = var.path
  permissions_boundary = var.boundary
  tags                 = local.tags
}

resource "aws_iam_group" "backup" {
  name = var.group
  path = var.path
}

resource "aws_iam_user_group_membership" "backup" {
  user   = aws_iam_user.backup.name
  groups = [aws_iam_group.backup.name]
}

resource "aws_iam_policy" "backup" {
  name   = var.policy
  path   = var.path
  policy = file(var.backup_document)
  tags   = local.tags
}

resource "aws_iam_group_policy_attachment" "backup" {
  group      = aws_iam_group.backup.name
  policy_arn = aws_iam_policy.backup.arn
}

resource "aws_iam_policy" "rotator" {
  name        = var.rotator_policy
  description = "What rekeyd needs to rotate the keys of ${var.user}"
  policy      = file(var.rotator_document)
  tags        = local.tags
}
