output "rotator_policy_arn" {
  description = "Attach it to the role that rekeyd runs as"
  value       = aws_iam_policy.rotator.arn
}
