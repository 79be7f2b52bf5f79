variable "user" {
  description = "`user` in rekeyd.yaml: the IAM user that the backups run as"
  type        = string
  default     = "backup_user"
}

variable "group" {
  description = "`group` in rekeyd.yaml"
  type        = string
  default     = "backup_group"
}

variable "path" {
  description = "`path` in rekeyd.yaml"
  type        = string
  default     = "/"
}

variable "policy" {
  description = "`policy.name` in rekeyd.yaml"
  type        = string
  default     = "S3BackupPolicy"
}

variable "boundary" {
  description = "`policy.boundary` in rekeyd.yaml: the ARN of the user's permissions boundary"
  type        = string
  default     = null
}

variable "backup_document" {
  description = "The file that `rekeyd policy backup` made"
  type        = string
}

variable "rotator_document" {
  description = "The file that `rekeyd policy rotator` made"
  type        = string
}

variable "rotator_policy" {
  description = "The name of the policy to attach to the role that rekeyd runs as"
  type        = string
  default     = "RekeydRotator"
}

variable "tags" {
  description = "More tags for all that can have them"
  type        = map(string)
  default     = {}
}
