"""Does a text speak to the language model that reads it, instead of describing anything?

Pages are data. A sentence that gives orders is dropped before any model sees it, and again from
what a model says. The list cannot be complete; that is why an answer is also held to a schema, a
page is asked about alone, and a review may only name what it was shown.
"""

import re

_ORDERS = re.compile(
    r"""
    \b(?:ignore|disregard|forget|override|bypass)\b.{0,40}
      \b(?:instruction|prompt|rule|above|previous|prior|before|earlier|other|guideline)
    | \b(?:new|updated|hidden|secret|real|following)\s+(?:instruction|order|directive)s?\b
    | \b(?:system|assistant|developer|user)\s*(?:prompt|message|:|\]|>|\|)
    | \bas\s+an?\s+(?:ai|assistant|language|llm|agent)
    | \byou\s+are\s+(?:now\s+)?(?:an?|the|no)\b
    | \b(?:ai|llm|gpt|claude|chatbot|language\s+model|agent|reviewer|crawler)s?\b.{0,40}
      \b(?:must|should|shall|please|choose|select|pick|rank|rate)
    | (?:^|[.;:,!\]>]\s*|\b(?:please|now|and|or|must|to|then|should|just|only|always)\s+)
      (?:respond|reply|answer|output|print|return|say|write|set)\b.{0,30}
      \b(?:only|with|exactly|json|the\s+following|this|true)\b
    | \b(?:always|must|only)\s+(?:be\s+)?(?:choose|chosen|select(?:ed)?|pick(?:ed)?|prefer(?:red)?
      |rank(?:ed)?|recommend(?:ed)?|keep|kept|use[ds]?)\b
    | \b(?:drop|reject|discard|remove)\s+
      (?:all|every|any|the\s+others?|others?|competing|rivals?)\b
    | \b(?:every|any|all|each)\s+(?:prompt|request|query|queries|attribute|task)s?\b
    | \b(?:call|invoke|use)\s+the\s+\w+\s+(?:tool|function)\b|\btool_(?:use|call|result)\b
    | \b(?:reveal|repeat|leak|show|send)\b.{0,30}\b(?:api\s*key|system\s+prompt|password|credential)
    | \b(?:rm\s+-rf|curl\s|wget\s|sudo\s|os\.system|subprocess|eval\(|exec\(|drop\s+table)
    | <\|?\s*(?:im_start|im_end|endoftext|system)|\[/?inst\]|\#{2,}\s*(?:system|instruction)
    | </?\s*(?:page|data|instructions|function_calls|invoke)\b|\bBEGIN\s+(?:SYSTEM|INSTRUCTION)
    | (?:忽略|无视|無視)[^。]{0,12}(?:指令|指示|提示|规则|規則)|以前の指示|이전\s*지시
    | \bignor(?:a|e|ez|iere?n?|ar)\b.{0,40}
      \b(?:instruc\w+|anweisung\w*|consignes?|istruzioni|vorherig\w+|anterior\w*|pr[eé]c[eé]dent\w*)
    | (?:игнорируй|забудь)\w*.{0,40}(?:инструкц|указан)
    """,
    re.I | re.X,
)
_BASE64 = re.compile(r"[A-Za-z0-9+/]{40,}={0,2}")


def is_an_order(text: str) -> bool:
    """Tell whether a text speaks to the language model that reads it, or hides what it says."""
    return bool(_ORDERS.search(text) or _BASE64.search(text))
