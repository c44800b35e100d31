"""How much history a volume keeps: the policy, and what follows from it. Pure: nothing here knows a file, a clock or the engine."""
