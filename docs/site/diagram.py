"""Draw where in both networks a loss reads, as SVG."""

from jinja2 import Template

# What a loss names, from the input of a network to its output.
PLACES = {
    "stem": "stem",
    "maps": "stage maps",
    "preacts": "maps before activation",
    "final": "last map",
    "class_maps": "class maps",
    "tokens": "tokens",
    "pooled": "embedding",
    "logits": "logits",
}

DIAGRAM = Template("""\
<svg class="reads" viewBox="0 0 {{ width }} 130" width="{{ width }}"
 role="img" aria-label="{{ label }}">
{%- for column in columns %}
{%- for side, y in (("student", 14), ("teacher", 86)) %}
<rect x="{{ column.x }}" y="{{ y }}" width="104" height="30" rx="4"
 class="{{ "read" if side in column.sides else "unread" }}"/>
<text x="{{ column.x + 52 }}" y="{{ y + 19 }}" text-anchor="middle">{{ column.name }}</text>
{%- endfor %}
{%- if column.sides | length == 2 %}
<path d="M{{ column.x + 52 }} 46 V84" class="link"/>
{%- endif %}
{%- endfor %}
<text x="4" y="33">student</text>
<text x="4" y="105">teacher</text>
</svg>
""")


def diagram(inputs: tuple[str, ...]) -> str:
    """Return an SVG of both networks, in which the places are marked that a loss reads.

    Args:
        inputs: the parameters of the loss's `forward`; those of no network are ignored.
    """
    sides = {
        place: [side for side in ("student", "teacher") if f"{side}_{place}" in inputs]
        for place in PLACES
    }
    shown = [place for place in PLACES if sides[place] or place in ("maps", "pooled", "logits")]
    columns = [
        {"x": 66 + 116 * number, "name": PLACES[place], "sides": sides[place]}
        for number, place in enumerate(shown)
    ]
    label = "; ".join(
        f"the {PLACES[place]} of {' and '.join(sides[place])}" for place in shown if sides[place]
    )
    return DIAGRAM.render(columns=columns, label=f"reads {label}", width=66 + 116 * len(columns))
