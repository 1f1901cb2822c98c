"""What a clip becomes: its header, the frames that a family looks at, and their pixels.

    bytes ── probe ──► size, rate, time stamps ── VideoRule.chosen ──► frames ── VideoRule.resized ──► (t, h, w)
      └───── read_frames(bytes, frames): sought, decoded, upright, on white ──► media_patches, as of images

Containers are read by PyAV (extra `[video]`), which is imported when the first clip is opened.
"""
