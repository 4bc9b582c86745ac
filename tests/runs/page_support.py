"""Records of runs for the tests of the page."""

HOSTILE = [
    "</script><script>document.title='owned'</script>",
    "<!-- <script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "\"'`&amp;&#60;",
    "line\u2028separator\u2029s",
    "50% #1? a+b;c:d \\ ~",
    "猫 🐈 é e\u0301",
    "javascript:alert(1)",
    "$title ${records} $$ {title}",
]


def record(image="photos/cat.jpg", **changes):
    """A record as the run's JSON has it; its pictures need not exist."""
    return {
        "image": image,
        "class_index": 285,
        "class_name": "n02124075 Egyptian cat",
        "score": 8.0,
        "probability": 0.19,
        "rank": 2,
        "model": "efficientnet-lite0",
        "layer": "bn2",
        "photograph": "photograph.jpg",
        "files": {"grad-cam": "cam.jpg", "xgrad-cam": "X_cam.jpg"},
        "notes": [],
        **changes,
    }
