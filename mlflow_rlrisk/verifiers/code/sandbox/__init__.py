"""What runs on the far side of the wall: the fork server and the processes that it forks.

Everything here is imported by a bare ``python -I -S``: standard library only, no import of the
package above it, nothing secret in memory. The trusted side shares `wire` and nothing else.
"""
