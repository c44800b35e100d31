"""Bodies of requests that volumes and groups have in common. A field that is not known, or of another type, is refused."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from cdp.description import STAMP_MAX


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class NewName(Body):
    name: str


class NewBookmark(Body):
    name: str
    at: str = "latest"
    force: bool = False
    held: bool = False
    expires_stamp: Annotated[int, Field(ge=0, le=STAMP_MAX)] | None = None


class NewRollback(Body):
    to: str | None
    force: bool = False
