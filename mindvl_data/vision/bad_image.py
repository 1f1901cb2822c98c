"""The one error of this package: an image that cannot be used, and why."""


class BadImage(ValueError):  # noqa: N818 -- it names what is wrong with the sample, not with the program
    """An image that cannot be used.

    `reason` is one of `unreadable_image`, `image_too_large`, `truncated_image`, `aspect_ratio`, words of
    the drop ledger. `detail` is for people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["BadImage"], tuple[str, str]]:
        # Worker processes raise it: the default would call __init__ with the joined message alone.
        return BadImage, (self.reason, self.detail)
