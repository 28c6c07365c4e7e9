"""Learning: losses, optimizers, schedules, fine-tuning, distillation, and the Lightning modules that join them."""
