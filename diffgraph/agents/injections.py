"""Is a text a prompt injection: an instruction to the language model that reads it?

Pages are data. A sentence that gives orders is dropped before any model sees it, and again from
what a model says. The list cannot be complete; that is why an answer is also held to a schema, a
page is asked about alone, and a review may only name what it was shown.
"""

# ruff: noqa: RUF001, E501

import re

from diffgraph.spelling import in_latin, with_letters

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
    | \bignor(?:a|e|ez|iere?n?|ar)\b.{0,40}
      \b(?:instruc\w+|anweisung\w*|consignes?|istruzioni|vorherig\w+|anterior\w*|pr[eé]c[eé]dent\w*)
    | \b(?:oublie[zr]?|ignorez?)\b.{0,40}\b(?:tout|toutes|instructions?|consignes?|r[èe]gles?)
    | \b(?:negeer|zignoruj|ignoruj|ignorera|yoksay|abaikan|ignoreer|ignorati|ignoroi)\w*
    | \b(?:vergiss|vergessen\s+sie|missachte)\b.{0,40}\b(?:alle|anweisung|regel|vorherig)
    | \b(?:olvida|dimentica|esque[çc]a)\b.{0,40}\b(?:todo|instruc|istruzion|tutt|regla|regol)
    | \b(?:w[äa]hle|nimm)\s+immer|\bimmer\s+(?:w[äa]hlen|ausw[äa]hlen|bevorzugen)
    | \b(?:elige|escoge|selecciona)\s+siempre|\bsiempre\s+(?:elige|escoge|selecciona)
    | \b(?:choisis|choisissez|s[ée]lectionne[zr]?)\s+toujours|\btoujours\s+(?:chois|s[ée]lect)\w*
    | \b(?:scegli|seleziona)\s+sempre|\bsempre\s+(?:scegli|escolh|selecion)\w*
    # plays a part, or speaks of verdicts and rivals
    | \b(?:pretend|imagine|suppose)\b.{0,20}\b(?:you|that\s+you)\b|\brole-?\s?play\b
    | \b(?:act|behave|respond)\s+as\s+(?:if|a|an|the|my)\b|\bfrom\s+now\s+on\b
    | \byou(?:'re|\s+are)\s+(?:the|my|a|an|now)\b|\byour\s+(?:task|job|role|goal|instructions?)\b
    | \b(?:dear|note\s+(?:to|for)|attention|message\s+(?:to|for)|hey)\s+(?:the\s+)?
      (?:ai|llm|model|reviewer|judge|assistant|agent|curator|grader|evaluator)\b
    | \bkept\b\s*(?:[=:]|to|is|are|must|should|only)|\b(?:verdicts?|candidates?|found_for)\b
    | \b(?:rivals?|competitors?|competing)\b
    | \b(?:all|any|every|the)\s+others?\b.{0,30}\b(?:fake|malware|broken|irrelevant|redundant|false
      |worse|inferior|unsafe|stolen|virus|useless)\b
    | \b(?:other|remaining)\s+(?:experts?|loras?|models?|cards?|entries|options)\b.{0,40}
      \b(?:fake|malware|broken|irrelevant|redundant|false|worse|inferior|unsafe|stolen|useless|drop)
    | \b(?:highest|maximum|top|full|perfect)\s+(?:score|similarity|rating|priority|relevance)\b
    """,
    re.I | re.X,
)
_FOREIGN = re.compile(
    r"""
    (?:忽略|无视|無視)[^。]{0,12}(?:指令|指示|提示|规则|規則)|以前の指示|이전\s*지시
    | \b(?:игнорир|ігнору|проигнорир|забудь|не\s+обращай)\w*
    | (?:всегда|завжди)\s+(?:выбира|обира|вибира)\w*
    | \b(?:önceki\s+talimat|bỏ\s+qua|talimatları)
    | (?:总是|永远|必须|务必|一定要)(?:选择|选|保留|推荐)|(?:常に|必ず)(?:選|推)|항상\s*선택|무시(?:하|해)
    | 無視(?:し|せ)|忽略|无视|تجاهل|نادیده|अनदेखा|नज़रअंदाज़|התעלמ?|αγνό[ηε]|ละเว้น|เพิกเฉย
    """,
    re.I | re.X,
)
"""The same in other alphabets."""
_SPACED = re.compile(r"(?:\b[^\W\d_][\s.\-_*·|/,]{1,3}){7,}[^\W\d_]\b")
"""Letters one by one."""
_BASE64 = re.compile(r"[A-Za-z0-9+/]{40,}={0,2}")


def is_injection(text: str) -> bool:
    """Tell whether a text speaks to the language model that reads it, or hides what it says."""
    if not text.isascii() and _FOREIGN.search(text):
        return True
    if _ORDERS.search(text) or _BASE64.search(text) or _SPACED.search(text):
        return True
    latin = in_latin(text)
    return any(_ORDERS.search(other) for other in {latin, with_letters(latin)} - {text.lower()})
