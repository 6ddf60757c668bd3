"""A whole fleet in one process: `warrend simulate`.

A real manager in a process of its own, and as many workers as one likes, which speak the real
session and run nothing: containers take a while to start and to stop, fail now and then, and so do
hosts. For those who plan capacity, and to see what a fleet of that size costs its manager.

| module | idea |
|---|---|
| `plan` | what is simulated: hosts, services, how often things fail |
| `held` | one container on one host, and its next step |
| `host` | one worker: its session, and what it holds |
| `fleet` | all of them, what fails when, and what was measured |
| `manager` | the real one beside them |
| `cost` | processor and memory of a process |
| `summary` | what came of it, for people and for programs |
| `command` | options, progress, the order of things |
"""
