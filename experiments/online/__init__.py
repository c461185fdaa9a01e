"""PPO agents on tasks: training into run directories, tasks and presets."""
