"""The merge strategies that are shipped: functions of one tensor's versions, in torch."""
